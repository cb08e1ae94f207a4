#include "prefill_worker/hand_over_ledger.h"

#include <utility>

#include "common/check.h"

namespace baleen::prefill_worker {

void HandOverLedger::Begin(AttemptId attempt) {
  MutexLock lock(mu_);
  BALEEN_CHECK(entries_.emplace(attempt, Entry{}).second);
}

void HandOverLedger::ComputeOver(AttemptId attempt) {
  StageReport report{.kind = StageReport::Kind::kEnded, .stage = stage_, .attempt = attempt};
  {
    MutexLock lock(mu_);
    const auto it = entries_.find(attempt);
    if (it == entries_.end()) return;
    it->second.computing = false;
    if (it->second.open) return;
    report.status = std::move(it->second.status);
    entries_.erase(it);
  }
  report_(std::move(report));
}

void HandOverLedger::Closed(AttemptId attempt, absl::Status status) {
  StageReport report{.stage = stage_, .attempt = attempt, .status = status};
  {
    MutexLock lock(mu_);
    const auto it = entries_.find(attempt);
    if (it == entries_.end() || !it->second.open) return;
    it->second.open = false;
    it->second.status = std::move(status);
    const bool ended = !it->second.computing;
    // Closed without an error while still computing cannot be: decode would have released a prompt
    // that is not complete.
    if (!ended && report.status.ok())
      it->second.status = report.status = absl::InternalError("released before the prompt's end");
    report.kind = ended ? StageReport::Kind::kEnded : StageReport::Kind::kFailed;
    if (ended) entries_.erase(it);
  }
  report_(std::move(report));
}

}  // namespace baleen::prefill_worker
