#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace baleen::router {

// The codes of both are the same numbers. Include only from *_service.cc and *_clients.cc.
inline grpc::Status ToGrpc(const absl::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}
inline absl::Status FromGrpc(const grpc::Status& status) {
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

}  // namespace baleen::router
