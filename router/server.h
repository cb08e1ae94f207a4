#pragma once

#include <atomic>
#include <memory>

#include "absl/status/statusor.h"
#include "common/metrics.h"
#include "common/run_server.h"
#include "router/dispatcher.h"
#include "router/model_info.h"
#include "router/request_registry.h"
#include "router/router_context.h"
#include "router/router_metrics.h"
#include "router/worker_directory.h"

namespace boost::asio {
class thread_pool;
}
namespace grpc {
class Server;
}
namespace baleen::v1 {
class RouterConfig;
}

namespace baleen::router {

class DirectoryService;
class GrpcWorkerClients;
class HttpServer;
class InferenceService;

// The router process: owns everything, and knows the order in which it starts and stops.
class Server {
 public:
  // Listens on both ports when it returns. Errors: a checkpoint that cannot be read, a port taken,
  // an unknown policy; each names the field.
  static absl::StatusOr<std::unique_ptr<Server>> Create(const v1::RouterConfig& config,
                                                        ShutdownSignal& shutdown);
  ~Server();

  // SIGTERM: not ready at once; accepts for drain_grace; then takes no new work over either wire
  // and lets running streams finish for up to drain_timeout. Blocks.
  void Drain();

  int http_port() const;
  int grpc_port() const { return grpc_port_; }
  RouterContext& context() { return *context_; }

 private:
  Server(ModelInfo model, Dispatcher::Options dispatch, Duration flush_timeout);
  absl::Status Listen(const v1::RouterConfig& config);
  absl::Status ListenGrpc(const v1::RouterConfig& config);

  // In the order of dependencies: destroyed last to first.
  const ModelInfo model_;
  Metrics metrics_registry_;
  RouterMetrics metrics_;
  std::atomic<bool> draining_{false};
  std::unique_ptr<GrpcWorkerClients> clients_;
  WorkerDirectory directory_;
  Dispatcher dispatcher_;
  RequestRegistry registry_;
  std::unique_ptr<DirectoryService> directory_service_;
  std::unique_ptr<boost::asio::thread_pool> heavy_;  // gone before http_ is
  std::unique_ptr<RouterContext> context_;
  std::unique_ptr<InferenceService> inference_service_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<grpc::Server> grpc_;
  int grpc_port_ = 0;
  Duration drain_grace_{};
  Duration drain_timeout_{};
};

}  // namespace baleen::router
