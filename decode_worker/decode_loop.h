#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/clock.h"
#include "decode_worker/decode_metrics.h"
#include "decode_worker/rank_mesh.h"
#include "decode_worker/request_table.h"
#include "decode_worker/step_agreement.h"
#include "engine/decode_step.h"

namespace baleen::decode_worker {

// The steps of one rank: take what is ready, agree with the other ranks, step together, emit.
//
// All ranks step whenever one of them has a sequence; a rank without one joins with zero rows,
// because its experts are needed. When no rank has work all of them sleep; the first one to get
// work wakes the others with its proposal for the next step.
//
// Threads: Run on the step thread; Stop, RequestExit, accept_length, step_start from any.
class DecodeLoop {
 public:
  // All are called on the step thread.
  struct Callbacks {
    // The pages of a request's prompt, before its first step (WirePool::FromWire).
    std::function<void(std::span<const PageId>)> from_wire;
    // After a step: has every rank taken part in its exchanges?
    std::function<absl::Status()> exchanged;
    // All ranks have agreed to end: siblings that vanish from now on are no failure.
    std::function<void()> agreed;
  };
  // All must outlive it; `table`'s wake must call mesh.Wake.
  DecodeLoop(RankMesh& mesh, RequestTable& table, engine::DecodeStep& step, DecodeMetrics& metrics,
             Callbacks callbacks)
      : mesh_(mesh),
        table_(table),
        step_(step),
        metrics_(metrics),
        callbacks_(std::move(callbacks)) {}

  // Until all ranks are drained and one was asked to exit (Ok), Stop (Unavailable), or the group
  // breaks (its error). What is left in the table then is cancelled with that status.
  absl::Status Run();

  // This rank's process wants to end once the whole group is drained.
  void RequestExit();
  // Leaves without the other ranks, at once or after the running step.
  void Stop();

  // Tokens a verify step, lately; 0 before the first.
  double accept_length() const { return accept_length_.load(std::memory_order_relaxed); }
  // When the step under way began; nullopt: none is. For a watchdog.
  std::optional<TimePoint> step_start() const {
    const int64_t ticks = step_start_.load(std::memory_order_relaxed);
    return ticks == 0 ? std::nullopt : std::optional(TimePoint(Duration(ticks)));
  }

 private:
  using Running = RequestTable::Running;

  absl::Status RunUntilExit();
  void SayGoodbye();
  void TakeChanges();
  StepProposal Propose() const;
  absl::Status Step(const StepPlan& plan);
  void Emit(Running& running, engine::StepOutput& output);

  RankMesh& mesh_;
  RequestTable& table_;
  engine::DecodeStep& step_;
  DecodeMetrics& metrics_;
  const Callbacks callbacks_;

  std::vector<std::unique_ptr<Running>> running_;
  std::vector<engine::DecodeSequence*> batch_;
  std::atomic<bool> exit_ = false;
  std::atomic<double> accept_length_ = 0;
  std::atomic<int64_t> step_start_ = 0;  // of TimePoint's clock; 0: no step
};

}  // namespace baleen::decode_worker
