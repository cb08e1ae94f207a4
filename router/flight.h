#pragma once

#include <memory>
#include <optional>

#include "common/mutex.h"
#include "router/dispatcher.h"
#include "router/request_state.h"

namespace baleen::router {

// One request on its way: its state, and the attempt it has. Internal to the dispatcher.
//
// Threads: any. The lock is never held while a leg, the sink or the directory is called, so events
// of a forgotten attempt may still come in; they are recognised by their attempt id and counted.
class Flight final : public RequestHandle,
                     public PrefillEvents,
                     public DecodeEvents,
                     public std::enable_shared_from_this<Flight> {
 public:
  Flight(Dispatcher& dispatcher, DispatchRequest request, std::shared_ptr<GenerationSink> sink);

  // What placement needs to know, with the pair of a failed attempt excluded.
  PlacementRequest Wish() const ABSL_LOCKS_EXCLUDED(mu_);
  // False when the request is not waiting to be placed (any more); nothing happened then.
  bool Begin(const Placement& placement) ABSL_LOCKS_EXCLUDED(mu_);
  bool MarkQueued() ABSL_LOCKS_EXCLUDED(mu_);
  // Ends a request that has no attempt, without a word to its sink; false when it has or has ended.
  bool Withdraw() ABSL_LOCKS_EXCLUDED(mu_);
  // Ends the request, whatever it is doing.
  void Fail(absl::Status status, RequestEvent event = RequestEvent::kFatalError)
      ABSL_LOCKS_EXCLUDED(mu_);
  void OnGroupDead(GroupId group, absl::string_view why) ABSL_LOCKS_EXCLUDED(mu_);
  TimePoint accepted() const { return accepted_; }
  bool retried() const ABSL_LOCKS_EXCLUDED(mu_);

  void Cancel(CancelReason reason) override ABSL_LOCKS_EXCLUDED(mu_);
  void Abort(absl::Status why) override { Fail(std::move(why)); }

  void OnPrefillStarted(AttemptId attempt, int cached_tokens) override;
  void OnHandedOff(AttemptId attempt) override;
  void OnPrefillDone(AttemptId attempt, absl::Status status) override;
  void OnTokens(AttemptId attempt, TokenStep step) override;
  void OnFinished(AttemptId attempt, FinishInfo info) override;
  void OnDecodeDone(AttemptId attempt, absl::Status status) override;

 private:
  enum class Origin : uint8_t { kPrefill, kDecode };
  struct Attempt {
    AttemptId id;
    Placement placement;
    std::shared_ptr<Leg> prefill;
    std::shared_ptr<Leg> decode;
    bool prefill_counted = true;  // still in the directory's assigned tokens
    bool handed_off = false;
    int cached_tokens = 0;  // of the prompt, at the prefill group
  };

  bool IsCurrent(AttemptId id) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return attempt_.has_value() && attempt_->id == id;
  }
  // Takes the legal step, or returns false.
  bool Step(RequestEvent event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // A leg of the current attempt failed: retry or fail.
  void Exclude(const Placement& placement, Origin origin, absl::StatusCode code)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AttemptFailed(AttemptId id, absl::Status status, Origin origin) ABSL_LOCKS_EXCLUDED(mu_);
  void UncountPrefill(AttemptId id) ABSL_LOCKS_EXCLUDED(mu_);
  // Gives back what the directory counts; cancels both legs if `abort`.
  void Release(std::optional<Attempt> attempt, bool abort);
  // The request reached a final state: the dispatcher lets go of it.
  void Leave();
  int64_t prompt_tokens() const { return static_cast<int64_t>(request_.prompt->size()); }

  Dispatcher& dispatcher_;
  const DispatchRequest request_;
  const std::shared_ptr<GenerationSink> sink_;
  const TimePoint accepted_;
  mutable Mutex mu_;
  RequestState state_ ABSL_GUARDED_BY(mu_) = RequestState::kReceived;
  std::optional<Attempt> attempt_ ABSL_GUARDED_BY(mu_);
  int attempts_made_ ABSL_GUARDED_BY(mu_) = 0;
  std::optional<GroupId> excluded_prefill_ ABSL_GUARDED_BY(mu_);
  std::optional<GroupId> excluded_decode_ ABSL_GUARDED_BY(mu_);
  std::optional<int> excluded_rank_ ABSL_GUARDED_BY(mu_);
};

}  // namespace baleen::router
