#pragma once

#include "router/http/exchange.h"

namespace baleen::router {

// The endpoints that do not generate.
boost::asio::awaitable<void> ServeAlive(Exchange& exchange);
// 200 when a pair of workers is ready and the router is not draining, else 503.
boost::asio::awaitable<void> ServeReadiness(Exchange& exchange);
boost::asio::awaitable<void> ServeMetrics(Exchange& exchange);
boost::asio::awaitable<void> ServeVersion(Exchange& exchange);
boost::asio::awaitable<void> ServeModels(Exchange& exchange);
boost::asio::awaitable<void> ServeOneModel(Exchange& exchange);  // /v1/models/ID, percent-encoded
boost::asio::awaitable<void> ServeWorkers(Exchange& exchange);
boost::asio::awaitable<void> ServeServerInfo(Exchange& exchange);
boost::asio::awaitable<void> ServeModelInfo(Exchange& exchange);
boost::asio::awaitable<void> ServeTokenizerInfo(Exchange& exchange);
boost::asio::awaitable<void> ServeTokenize(Exchange& exchange);
boost::asio::awaitable<void> ServeDetokenize(Exchange& exchange);
// {"rid": request id}: ends that request with an error.
boost::asio::awaitable<void> ServeAbort(Exchange& exchange);
// Every prefill group's; 200 once all have emptied theirs.
boost::asio::awaitable<void> ServeFlushCache(Exchange& exchange);
// POST /workers/GROUP/drain, /undrain or /flush_cache.
boost::asio::awaitable<void> ServeWorkerCommand(Exchange& exchange);

}  // namespace baleen::router
