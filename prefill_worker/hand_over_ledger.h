#pragma once

#include <functional>
#include <map>

#include "absl/status/status.h"
#include "common/ids.h"
#include "common/mutex.h"
#include "prefill_worker/stage_report.h"

namespace baleen::prefill_worker {

// When is a stage through with an attempt? When it computes nothing of it any more (the prompt
// ended or an abort header came) and its hand-over is closed. Both happen on different threads; the
// second one reports kEnded. A hand-over that closes with an error before the computing is over is
// reported as kFailed at once, so that the leader stops it everywhere.
//
// Threads: Begin and ComputeOver on the step thread, Closed on the transport's. `report` is called
// from either, without a lock held.
class HandOverLedger {
 public:
  HandOverLedger(int stage, std::function<void(StageReport)> report)
      : stage_(stage), report_(std::move(report)) {}

  void Begin(AttemptId attempt) ABSL_LOCKS_EXCLUDED(mu_);
  void ComputeOver(AttemptId attempt) ABSL_LOCKS_EXCLUDED(mu_);
  void Closed(AttemptId attempt, absl::Status status) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Entry {
    bool computing = true;
    bool open = true;
    absl::Status status;  // of the hand-over
  };

  const int stage_;
  const std::function<void(StageReport)> report_;
  Mutex mu_;
  std::map<AttemptId, Entry> entries_ ABSL_GUARDED_BY(mu_);
};

}  // namespace baleen::prefill_worker
