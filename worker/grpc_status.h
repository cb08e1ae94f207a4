#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace baleen::worker {

// The codes of both are the same numbers. Include only from *_service.cc and *_client.cc.
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace baleen::worker
