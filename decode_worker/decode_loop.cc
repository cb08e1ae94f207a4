#include "decode_worker/decode_loop.h"

#include <algorithm>
#include <utility>

#include "common/kv_layout.h"
#include "common/status_macros.h"

namespace baleen::decode_worker {
namespace {

double SecondsSince(TimePoint start) {
  return std::chrono::duration<double>(SteadyClock().Now() - start).count();
}

}  // namespace

absl::Status DecodeLoop::Run() {
  const absl::Status why = RunUntilExit();
  table_.SetDraining(true);
  table_.CancelAll(why.ok() ? absl::UnavailableError("the decode rank has ended") : why);
  running_.clear();
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
    TakeChanges();
    StepProposal own = Propose();
    told.drained = told.drained && own.drained;
    if (own.sequences == 0 && (!own.drained || (told.drained && told.exit == own.exit))) {
      const bool peers = mesh_.WaitForPeers();
      BALEEN_RETURN_IF_ERROR(mesh_.status());
      if (!peers) continue;
      TakeChanges();
      own = Propose();
    }
    const TimePoint start = SteadyClock().Now();
    BALEEN_ASSIGN_OR_RETURN(const StepPlan plan, Agree(mesh_, own));
    metrics_.agree_seconds.Observe(SecondsSince(start));
    told = own;
    if (plan.finished) {
      SayGoodbye();
      return absl::OkStatus();
    }
    if (plan.total_sequences > 0) BALEEN_RETURN_IF_ERROR(Step(plan));
  }
}

// One more round: a rank that has everybody's goodbye may go, because all the others have learnt
// by then that the end is agreed, and do not take its leaving for a failure.
void DecodeLoop::SayGoodbye() {
  callbacks_.agreed();
  const std::vector<RankMesh::Outgoing> to(size_t(mesh_.size()));
  (void)mesh_.Exchange(RankMesh::Kind::kAgree, to);
}

void DecodeLoop::TakeChanges() {
  RequestTable::Changes changes = table_.Take();
  for (AttemptId attempt : changes.left)
    std::erase_if(running_, [&](const auto& r) { return r->attempt() == attempt; });
  for (auto& joined : changes.joined) {
    const engine::DecodeSequence& sequence = joined->sequence;
    callbacks_.from_wire(std::span(sequence.pages).first(size_t(PagesFor(sequence.prompt_tokens))));
    running_.push_back(std::move(joined));
  }
}

StepProposal DecodeLoop::Propose() const {
  const bool drained = running_.empty() && table_.drained();
  return {.sequences = int(running_.size()),
          .drained = drained,
          .exit = exit_.load(std::memory_order_relaxed)};
}

absl::Status DecodeLoop::Step(const StepPlan& plan) {
  const TimePoint start = SteadyClock().Now();
  batch_.clear();
  for (const auto& r : running_) batch_.push_back(&r->sequence);
  step_start_.store(start.time_since_epoch().count(), std::memory_order_relaxed);
  std::vector<engine::StepOutput> outputs = step_.Run(batch_, plan.most_sequences);
  step_start_.store(0, std::memory_order_relaxed);
  // A rank that vanished in the middle leaves numbers that mean nothing.
  BALEEN_RETURN_IF_ERROR(callbacks_.exchanged());
  metrics_.step_seconds.Observe(SecondsSince(start));
  metrics_.batch_sequences.Observe(double(running_.size()));
  if (running_.empty()) metrics_.idle_steps.Increment();

  for (size_t i = 0; i < outputs.size(); ++i) Emit(*running_[i], outputs[i]);
  std::erase_if(running_,
                [](const auto& r) { return r->sequence.finish != engine::FinishReason::kNone; });
  return absl::OkStatus();
}

void DecodeLoop::Emit(Running& running, engine::StepOutput& output) {
  const engine::DecodeSequence& sequence = running.sequence;
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
    table_.Finish(running.attempt());
  } else if (!read) {
    table_.Cancel(running.attempt(),
                  absl::ResourceExhaustedError("the reader of the stream is too slow"));
  }
}

}  // namespace baleen::decode_worker
