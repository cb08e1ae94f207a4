#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "router/http/connection.h"
#include "router/router_context.h"

namespace baleen::router {

struct HttpOptions {
  std::string host = "0.0.0.0";
  int port = 8000;  // 0: chosen by the system
  int threads = 2;
  int max_connections = 4096;  // served at once; one more gets 503 and is closed
  ConnectionLimits limits;
};

// The HTTP front end: a listener, a coroutine a connection, and the I/O threads that run them.
//
// Threads: Create, the public calls and destruction on the owner's thread. Destroy it only after
// Stop, when no worker calls back any more and `context.heavy`, whose tasks hold connections, is
// gone.
class HttpServer {
 public:
  // Listens at once. Unavailable with the address when the port is taken.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Create(HttpOptions options,
                                                            RouterContext& context);
  ~HttpServer();

  int port() const;
  // Calls `tick` every `period` on an I/O thread, until destruction. Once, before Start.
  void Every(Duration period, std::function<void()> tick);
  void Start();

  // No new connection, and none is kept alive after the request it is working on.
  void StopListening();
  int open_connections() const;
  // Ends the I/O threads; what is connected hears nothing more.
  void Stop();

 private:
  class Core;
  explicit HttpServer(std::unique_ptr<Core> core);
  const std::unique_ptr<Core> core_;
};

}  // namespace baleen::router
