#include "decode_worker/decode_loop.h"

#include <algorithm>
#include <utility>

#include "common/kv_layout.h"
#include "common/status_macros.h"

namespace baleen::decode_worker {

absl::Status DecodeLoop::Run() {
  const absl::Status why = RunUntilExit();
  table_.SetDraining(true);
  table_.CancelAll(why.ok() ? absl::UnavailableError("the decode rank has ended") : why);
  running_.clear();
  ended_.clear();
  table_.Take();
  return why;
}

void DecodeLoop::RequestExit() {
  exit_ = true;
  mesh_.Wake();
}

void DecodeLoop::Stop() { mesh_.Fail(absl::UnavailableError("the decode rank is shutting down")); }

absl::Status DecodeLoop::RunUntilExit() {
  // Without work, a rank speaks up when it becomes drained or is asked to exit, once each: so the
  // last rank to be so ends the group.
  StepProposal told;
  while (true) {
    last_turn_.store(SteadyClock().Now().time_since_epoch().count(), std::memory_order_relaxed);
    BALEEN_RETURN_IF_ERROR(TakeChanges());
    StepProposal own = Propose();
    told.drained = told.drained && own.drained;
    const bool quiet =
        own.sequences == 0 && (!own.drained || (told.drained && told.exit == own.exit));
    // While a step is under way the others go on too: the round after it decides.
    if (quiet && flights_.empty()) {
      const bool peers = mesh_.WaitForPeers();
      BALEEN_RETURN_IF_ERROR(mesh_.status());
      if (!peers) continue;
      BALEEN_RETURN_IF_ERROR(TakeChanges());
      own = Propose();
    }
    const TimePoint start = SteadyClock().Now();
    BALEEN_ASSIGN_OR_RETURN(const StepPlan plan, Agree(mesh_, own));
    metrics_.agree_seconds.Observe(SecondsSince(start));
    told = own;
    const bool work = plan.total_sequences > 0;
    if (work) Launch(plan);
    BALEEN_RETURN_IF_ERROR(FinishSteps(work && overlap_ ? 1 : 0));
    if (plan.finished) {
      SayGoodbye();
      return absl::OkStatus();
    }
  }
}

// One more round: a rank that has everybody's goodbye may go, because all the others have learnt
// by then that the end is agreed, and do not take its leaving for a failure.
void DecodeLoop::SayGoodbye() {
  callbacks_.agreed();
  const std::vector<RankMesh::Outgoing> to(size_t(mesh_.size()));
  (void)mesh_.Exchange(RankMesh::Kind::kAgree, to);
}

absl::Status DecodeLoop::TakeChanges() {
  if (table_.WantsToLeave()) BALEEN_RETURN_IF_ERROR(FinishSteps(0));
  RequestTable::Changes changes = table_.Take(/*leave=*/flights_.empty());
  for (AttemptId attempt : changes.left)
    std::erase_if(running_, [&](const auto& r) { return r->attempt() == attempt; });
  for (auto& joined : changes.joined) {
    const engine::DecodeSequence& sequence = joined->sequence;
    callbacks_.from_wire(std::span(sequence.pages).first(size_t(PagesFor(sequence.prompt_tokens))));
    running_.push_back(std::move(joined));
  }
  return CanFollow() ? absl::OkStatus() : FinishSteps(0);
}

bool DecodeLoop::CanFollow() const {
  return std::all_of(running_.begin(), running_.end(),
                     [](const auto& r) { return engine::DecodeStep::CanFollow(r->sequence); });
}

StepProposal DecodeLoop::Propose() const {
  const bool drained = running_.empty() && table_.drained();
  return {.sequences = int(running_.size()),
          .drained = drained,
          .exit = exit_.load(std::memory_order_relaxed)};
}

void DecodeLoop::Launch(const StepPlan& plan) {
  Flight& flight = flights_.emplace_back(Flight{.start = SteadyClock().Now()});
  std::vector<engine::DecodeSequence*> sequences;
  for (const auto& r : running_) {
    flight.requests.push_back(r.get());
    sequences.push_back(&r->sequence);
  }
  if (flights_.size() == 1) SetStepStart(flight.start);
  step_.Launch(sequences, plan.most_sequences);
}

absl::Status DecodeLoop::FinishSteps(int in_flight) {
  while (int(flights_.size()) > in_flight) BALEEN_RETURN_IF_ERROR(FinishStep());
  return absl::OkStatus();
}

absl::Status DecodeLoop::FinishStep() {
  std::vector<engine::StepOutput> outputs = step_.Finish();
  const Flight flight = std::move(flights_.front());
  flights_.pop_front();
  // A rank that vanished in the middle leaves numbers that mean nothing.
  BALEEN_RETURN_IF_ERROR(callbacks_.exchanged());
  metrics_.step_seconds.Observe(SecondsSince(flight.start));
  metrics_.batch_sequences.Observe(double(flight.requests.size()));
  if (flight.requests.empty()) metrics_.idle_steps.Increment();
  SetStepStart(std::nullopt);
  if (!flights_.empty()) {  // which had to wait for this one
    flights_.front().start = SteadyClock().Now();
    SetStepStart(flights_.front().start);
  }

  const auto ended = std::exchange(ended_, {});  // which this step has in it
  for (const auto& r : ended) table_.Finish(r->attempt());
  for (size_t i = 0; i < outputs.size(); ++i) Emit(*flight.requests[i], outputs[i]);
  for (auto& r : running_)
    if (r->sequence.finish != engine::FinishReason::kNone) Dismiss(std::move(r));
  std::erase(running_, nullptr);
  return absl::OkStatus();
}

// A request that has ended. Its pages go once no step writes them.
void DecodeLoop::Dismiss(std::unique_ptr<Running> running) {
  if (flights_.empty()) return table_.Finish(running->attempt());
  ended_.push_back(std::move(running));
}

void DecodeLoop::SetStepStart(std::optional<TimePoint> start) {
  step_start_.store(start ? start->time_since_epoch().count() : 0, std::memory_order_relaxed);
}

void DecodeLoop::Emit(Running& running, engine::StepOutput& output) {
  const engine::DecodeSequence& sequence = running.sequence;
  if (output.status.ok() && output.tokens.empty()) return;  // it had ended in the step before
  if (!output.status.ok()) {
    // Stays in the batch until Take says that it has left.
    table_.Cancel(running.attempt(), output.status);
    return;
  }
  if (sequence.steps == 1) table_.FirstStep(running);
  const double emitted = double(output.tokens.size());
  metrics_.accept_length.Observe(emitted);
  metrics_.tokens.Increment(emitted);
  const double before = accept_length();
  accept_length_.store(before == 0 ? emitted : before + (emitted - before) / 64,
                       std::memory_order_relaxed);

  TokenChunk chunk = {.tokens = std::move(output.tokens), .logprobs = std::move(output.logprobs)};
  const bool ends = sequence.finish != engine::FinishReason::kNone;
  if (ends)
    chunk.finish = {.reason = sequence.finish,
                    .new_tokens = sequence.generated(),
                    .cached_tokens = running.cached_tokens,
                    .steps = sequence.steps,
                    .accepted_drafts = sequence.accepted_drafts};
  const bool read = running.out->Append(std::move(chunk));
  if (ends) {
    running.out->Close(absl::OkStatus());
  } else if (!read) {
    table_.Cancel(running.attempt(),
                  absl::ResourceExhaustedError("the reader of the stream is too slow"));
  }
}

}  // namespace baleen::decode_worker
