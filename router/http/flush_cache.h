#pragma once

#include <string>

#include "router/http/exchange.h"

namespace baleen::router {

// Empties the prefix cache of the prefill group of this name, "" for all of them. 200 with their
// names once each has said that it has; otherwise an error that names those that have not: 503 for
// one that went away, 504 after RouterContext::flush_timeout.
boost::asio::awaitable<void> FlushCache(Exchange& exchange, std::string group);

}  // namespace baleen::router
