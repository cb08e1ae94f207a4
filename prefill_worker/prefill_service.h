#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "prefill_worker/prefill_job.h"

namespace grpc {
class Service;
}

namespace baleen::prefill_worker {

// gRPC in: the leader's PrefillWorker service. `submit` takes the job or refuses it; `cancel` is
// called when the router gives the attempt up. Both are called on gRPC's threads and must not
// block. The sink may be used until Finished was called on it.
struct PrefillServiceHooks {
  std::function<absl::Status(PrefillJob, std::shared_ptr<PrefillSink>)> submit;
  std::function<void(AttemptId)> cancel;
  int token_limit = 0;  // prompt ids must be below
};

std::unique_ptr<grpc::Service> MakePrefillService(PrefillServiceHooks hooks);

}  // namespace baleen::prefill_worker
