#pragma once

#include <atomic>
#include <deque>
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
// With `overlap` a step is launched before the results of the one before are looked at, so that the
// device does not wait for the host. A request that ends or leaves is then in one step more than it
// needs; its pages go after that. Steps follow one by one while a request's next choice depends on
// what the host makes of the last one (penalties).
//
// Threads: Run on the step thread; the others from any.
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
  // All must outlive it; `table`'s wake must call mesh.Wake. `overlap` is worth it where steps run
  // without the host.
  DecodeLoop(RankMesh& mesh, RequestTable& table, engine::DecodeStep& step, DecodeMetrics& metrics,
             Callbacks callbacks, bool overlap)
      : mesh_(mesh),
        table_(table),
        step_(step),
        metrics_(metrics),
        callbacks_(std::move(callbacks)),
        overlap_(overlap) {}

  // Until all ranks are drained and one was asked to exit (Ok), Stop (Unavailable), or the group
  // breaks (its error). What is left in the table then is cancelled with that status.
  absl::Status Run();

  // This rank's process wants to end once the whole group is drained.
  void RequestExit();
  // Leaves without the other ranks, at once or after the running step.
  void Stop();

  // Tokens a verify step, lately; 0 before the first.
  double accept_length() const { return accept_length_.load(std::memory_order_relaxed); }
  // When the (oldest) step under way began; nullopt: none is. For a watchdog.
  std::optional<TimePoint> step_start() const {
    const int64_t ticks = step_start_.load(std::memory_order_relaxed);
    return ticks == 0 ? std::nullopt : std::optional(TimePoint(Duration(ticks)));
  }
  // When it last looked at what is to do.
  TimePoint last_turn() const {
    return TimePoint(Duration(last_turn_.load(std::memory_order_relaxed)));
  }

 private:
  using Running = RequestTable::Running;

  absl::Status RunUntilExit();
  void SayGoodbye();
  absl::Status TakeChanges();
  StepProposal Propose() const;
  bool CanFollow() const;
  void Launch(const StepPlan& plan);
  // Until at most `in_flight` steps are under way.
  absl::Status FinishSteps(int in_flight);
  absl::Status FinishStep();
  void Emit(Running& running, engine::StepOutput& output);
  void Dismiss(std::unique_ptr<Running> running);
  void SetStepStart(std::optional<TimePoint> start);

  RankMesh& mesh_;
  RequestTable& table_;
  engine::DecodeStep& step_;
  DecodeMetrics& metrics_;
  const Callbacks callbacks_;
  const bool overlap_;

  std::vector<std::unique_ptr<Running>> running_;
  std::vector<std::unique_ptr<Running>> ended_;  // and in the step under way still
  struct Flight {
    TimePoint start;
    std::vector<Running*> requests;
  };
  std::deque<Flight> flights_;  // as step_'s
  std::atomic<bool> exit_ = false;
  std::atomic<double> accept_length_ = 0;
  std::atomic<int64_t> step_start_ = 0;  // of TimePoint's clock; 0: no step
  std::atomic<int64_t> last_turn_ = 0;   // likewise
};

}  // namespace baleen::decode_worker
