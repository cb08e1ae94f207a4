#pragma once

#include "router/http/exchange.h"

namespace baleen::router {

// Answers a request by its method and path: the table of all HTTP endpoints.
boost::asio::awaitable<void> Route(Exchange& exchange);

}  // namespace baleen::router
