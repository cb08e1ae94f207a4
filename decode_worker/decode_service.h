#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "decode_worker/decode_job.h"
#include "decode_worker/token_buffer.h"

namespace grpc {
class Service;
}

namespace baleen::decode_worker {

// gRPC in: the DecodeWorker service of every rank. `submit` takes the job or refuses it; `cancel`
// is called when the router gives the attempt up or its deadline passes. Both are called on gRPC's
// threads and must not block.
struct DecodeServiceHooks {
  std::function<absl::Status(DecodeJob, std::shared_ptr<TokenBuffer>)> submit;
  std::function<void(AttemptId)> cancel;
  int token_limit = 0;  // prompt ids must be below
};

std::unique_ptr<grpc::Service> MakeDecodeService(DecodeServiceHooks hooks);

}  // namespace baleen::decode_worker
