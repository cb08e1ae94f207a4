#pragma once

#include <memory>

#include "router/router_context.h"
#include "router/worker_directory.h"

namespace grpc {
class Service;
}

namespace baleen::router {

// proto Directory: the Register streams of worker leaders, and the commands sent back on them.
// Threads: gRPC's callback threads; Send from any.
class DirectoryService : public GroupCommander {
 public:
  // `directory` must outlive the gRPC server.
  static std::unique_ptr<DirectoryService> Create(WorkerDirectory& directory);
  virtual grpc::Service* service() = 0;
  // Ends all Register streams, so that the gRPC server can shut down; later ones are refused.
  virtual void CloseAll() = 0;
};

}  // namespace baleen::router
