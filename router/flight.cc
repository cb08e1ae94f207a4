#include "router/flight.h"

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/log.h"

namespace baleen::router {
namespace {

constexpr int kMaxAttempts = 2;

bool IsRetryable(absl::StatusCode code) {
  return code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kResourceExhausted ||
         code == absl::StatusCode::kAborted;
}

// What a worker's failure means to the client. A stream that ended without a cause is a failed
// worker, not a cancelled request; one whose cause lies between the workers (a link that was
// refused) is no fault of the request, and another pair may do; of what remains only an invalid
// argument is the client's.
absl::StatusCode MeaningOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kUnknown:
      return absl::StatusCode::kAborted;
    case absl::StatusCode::kFailedPrecondition:
      return absl::StatusCode::kUnavailable;
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return absl::StatusCode::kInternal;
    default:
      return code;
  }
}

absl::Status FromWorker(const absl::Status& status, const char* role, const std::string& name) {
  return absl::Status(MeaningOf(status.code()),
                      absl::StrCat(role, " worker ", name, ": ", status.message()));
}

}  // namespace

Flight::Flight(Dispatcher& dispatcher, DispatchRequest request,
               std::shared_ptr<GenerationSink> sink)
    : dispatcher_(dispatcher),
      request_(std::move(request)),
      sink_(std::move(sink)),
      accepted_(dispatcher.clock_.Now()) {}

PlacementRequest Flight::Wish() const {
  MutexLock lock(mu_);
  return {.prompt_tokens = prompt_tokens(),
          .max_new_tokens = request_.max_new_tokens,
          .excluded_prefill = excluded_prefill_,
          .excluded_decode = excluded_decode_,
          .excluded_rank = excluded_rank_};
}

bool Flight::retried() const {
  MutexLock lock(mu_);
  return attempts_made_ > 1;
}

bool Flight::Step(RequestEvent event) {
  const auto next = Next(state_, event);
  if (!next) return false;
  state_ = *next;
  return true;
}

bool Flight::MarkQueued() {
  MutexLock lock(mu_);
  return Step(RequestEvent::kEnqueued);
}

bool Flight::Withdraw() {
  MutexLock lock(mu_);
  return !attempt_ && Step(RequestEvent::kFatalError);
}

bool Flight::Begin(const Placement& placement) {
  const AttemptInput input{
      .attempt = AttemptId{RandomId()}, .prompt = request_.prompt, .sampling = request_.sampling};
  const WorkerMember& rank = placement.decode_identity->members[size_t(placement.rank)];
  const auto self = shared_from_this();
  const auto decode = dispatcher_.clients_.Decode(rank, *placement.prefill_identity, input, self);
  const auto prefill = dispatcher_.clients_.Prefill(*placement.prefill_identity, rank, input, self);
  dispatcher_.directory_.Assign(placement.prefill, 0, prompt_tokens());
  dispatcher_.directory_.Assign(placement.decode, placement.rank,
                                prompt_tokens() + request_.max_new_tokens);
  Attempt attempt{
      .id = input.attempt, .placement = placement, .prefill = prefill, .decode = decode};
  bool begun = false;
  {
    MutexLock lock(mu_);
    begun = Step(RequestEvent::kPlaced);
    if (begun) {
      attempt_ = attempt;
      if (++attempts_made_ > 1) ++dispatcher_.live_retries_;
    }
  }
  dispatcher_.metrics_.attempts.Increment();
  if (!begun) {
    Release(std::move(attempt), /*abort=*/false);
    return false;
  }
  RouterMetrics& metrics = dispatcher_.metrics_;
  metrics.prompt_tokens.Increment(static_cast<double>(prompt_tokens()));
  decode->Start();
  prefill->Start();
  RouterMetrics::Observe(metrics.router_in_seconds, dispatcher_.clock_.Now() - request_.received);
  return true;
}

void Flight::Release(std::optional<Attempt> attempt, bool abort) {
  if (!attempt) return;
  if (abort) {
    attempt->decode->Cancel();
    attempt->prefill->Cancel();
  }
  dispatcher_.metrics_.attempts.Decrement();
  const Placement& p = attempt->placement;
  if (attempt->prefill_counted) dispatcher_.directory_.Unassign(p.prefill, 0, prompt_tokens());
  dispatcher_.directory_.Unassign(p.decode, p.rank, prompt_tokens() + request_.max_new_tokens);
}

void Flight::UncountPrefill(AttemptId id) {
  GroupId prefill;
  {
    MutexLock lock(mu_);
    if (!IsCurrent(id) || !attempt_->prefill_counted) return;
    attempt_->prefill_counted = false;
    prefill = attempt_->placement.prefill;
  }
  dispatcher_.directory_.Unassign(prefill, 0, prompt_tokens());
}

void Flight::Exclude(const Placement& placement, Origin origin, absl::StatusCode code) {
  if (origin == Origin::kPrefill) {
    excluded_prefill_ = placement.prefill;
    return;
  }
  excluded_decode_ = placement.decode;
  // A group that cannot be reached is lost with all its ranks; a full one may have room elsewhere.
  if (code != absl::StatusCode::kUnavailable) excluded_rank_ = placement.rank;
}

void Flight::AttemptFailed(AttemptId id, absl::Status status, Origin origin) {
  const bool retry_allowed = dispatcher_.RetryAllowed();
  std::optional<Attempt> attempt;
  bool retry = false;
  {
    MutexLock lock(mu_);
    if (!IsCurrent(id)) return;  // finished, or given up before
    const Placement& p = attempt_->placement;
    const bool prefill_failed = origin == Origin::kPrefill;
    status = FromWorker(status, prefill_failed ? "prefill" : "decode",
                        prefill_failed ? p.prefill_identity->name : p.decode_identity->name);
    retry = IsRetryable(status.code()) && attempts_made_ < kMaxAttempts && retry_allowed &&
            Step(RequestEvent::kRetryableError);
    if (retry) Exclude(p, origin, status.code());
    if (!retry && !Step(RequestEvent::kFatalError)) return;
    attempt = std::exchange(attempt_, std::nullopt);
  }
  Release(std::move(attempt), /*abort=*/true);
  spdlog::warn("attempt {:016x} failed{}: {}", id.value, retry ? ", trying another pair" : "",
               status.ToString());
  if (retry) {
    if (dispatcher_.Retry(shared_from_this())) return;
    Fail(std::move(status));
    return;
  }
  sink_->OnError(std::move(status));
  Leave();
}

void Flight::Fail(absl::Status status, RequestEvent event) {
  std::optional<Attempt> attempt;
  {
    MutexLock lock(mu_);
    if (!Step(event)) return;
    attempt = std::exchange(attempt_, std::nullopt);
  }
  Release(std::move(attempt), /*abort=*/true);
  sink_->OnError(std::move(status));
  Leave();
}

void Flight::Cancel(CancelReason reason) {
  std::optional<Attempt> attempt;
  {
    MutexLock lock(mu_);
    const RequestEvent event = reason == CancelReason::kStopMatched ? RequestEvent::kStopMatched
                                                                    : RequestEvent::kClientGone;
    if (!Step(event)) return;
    attempt = std::exchange(attempt_, std::nullopt);
  }
  Release(std::move(attempt), /*abort=*/true);
  RouterMetrics& metrics = dispatcher_.metrics_;
  (reason == CancelReason::kStopMatched ? metrics.stop_string_hits : metrics.client_gone)
      .Increment();
  Leave();
}

void Flight::OnGroupDead(GroupId group, absl::string_view why) {
  AttemptId id;
  Origin origin = Origin::kDecode;
  {
    MutexLock lock(mu_);
    if (!attempt_) return;
    const Placement& p = attempt_->placement;
    // A prefill group that handed over is no longer needed.
    if (p.decode != group && (p.prefill != group || attempt_->handed_off)) return;
    if (p.decode != group) origin = Origin::kPrefill;
    id = attempt_->id;
  }
  AttemptFailed(id, absl::UnavailableError(why), origin);
}

void Flight::Leave() { dispatcher_.Forget(shared_from_this()); }

void Flight::OnPrefillStarted(AttemptId attempt, int cached_tokens) {
  MutexLock lock(mu_);
  if (IsCurrent(attempt)) attempt_->cached_tokens = cached_tokens;
}

void Flight::OnHandedOff(AttemptId attempt) {
  {
    MutexLock lock(mu_);
    if (IsCurrent(attempt)) attempt_->handed_off = true;
  }
  UncountPrefill(attempt);
}

void Flight::OnPrefillDone(AttemptId attempt, absl::Status status) {
  {
    MutexLock lock(mu_);
    if (!IsCurrent(attempt)) return;
    if (status.ok()) attempt_->handed_off = true;
    // Decode has all it needs: what became of prefill no longer matters.
    if (attempt_->handed_off) status = absl::OkStatus();
  }
  if (status.ok())
    UncountPrefill(attempt);
  else
    AttemptFailed(attempt, std::move(status), Origin::kPrefill);
}

void Flight::OnTokens(AttemptId attempt, TokenStep step) {
  RouterMetrics& metrics = dispatcher_.metrics_;
  bool current = false;
  bool first = false;
  {
    MutexLock lock(mu_);
    current = IsCurrent(attempt);
    first = current && Step(RequestEvent::kFirstToken);
    if (first) attempt_->handed_off = true;
    if (current) step.cached_tokens = attempt_->cached_tokens;
  }
  if (!current) {
    metrics.late_events.Increment();
    return;
  }
  step.received = dispatcher_.clock_.Now();
  if (first) RouterMetrics::Observe(metrics.first_token_seconds, step.received - request_.received);
  metrics.generated_tokens.Increment(static_cast<double>(step.tokens.size()));
  sink_->OnTokens(std::move(step));
}

void Flight::OnFinished(AttemptId attempt, FinishInfo info) {
  std::optional<Attempt> done;
  {
    MutexLock lock(mu_);
    if (!IsCurrent(attempt) || !Step(RequestEvent::kFinished)) return;
    done = std::exchange(attempt_, std::nullopt);
  }
  Release(std::move(done), /*abort=*/false);  // both streams end by themselves
  sink_->OnFinished(info);
  Leave();
}

void Flight::OnDecodeDone(AttemptId attempt, absl::Status status) {
  if (status.ok()) status = absl::AbortedError("the token stream ended without a finish");
  AttemptFailed(attempt, std::move(status), Origin::kDecode);
}

}  // namespace baleen::router
