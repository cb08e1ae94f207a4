#pragma once

#include <memory>

#include "router/worker_clients.h"

namespace baleen::router {

// WorkerClients over gRPC's callback API. Channels are kept by address.
class GrpcWorkerClients : public WorkerClients {
 public:
  static std::unique_ptr<GrpcWorkerClients> Create();
  // Cancels all streams and waits until the last event of each was delivered. No leg may be started
  // afterwards.
  virtual void Shutdown() = 0;
};

}  // namespace baleen::router
