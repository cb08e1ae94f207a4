#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "grpcpp/server.h"

namespace baleen::worker {

struct GrpcServer {
  std::unique_ptr<grpc::Server> server;
  int port = 0;
};

// Serves `services`, which must outlive it, on all addresses; port 0: the system chooses.
// Unavailable: the port is taken.
absl::StatusOr<GrpcServer> ListenGrpc(int port, const std::vector<grpc::Service*>& services);

}  // namespace baleen::worker
