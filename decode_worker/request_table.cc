#include "decode_worker/request_table.h"

#include <algorithm>
#include <span>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "engine/memory_plan.h"
#include "worker/handoff_payload.h"

namespace baleen::decode_worker {
namespace {

using kv_transfer::HandoffRecord;
using kv_transfer::KvReceiver;

}  // namespace

RequestTable::RequestTable(RequestTableOptions options, KvLender lender, std::function<void()> wake,
                           DecodeMetrics& metrics, const Clock& clock)
    : options_(std::move(options)),
      lender_(std::move(lender)),
      wake_(std::move(wake)),
      metrics_(metrics),
      clock_(clock),
      pool_(options_.pages) {
  MutexLock lock(mu_);
  Export();
}

int RequestTable::PagesOf(const DecodeJob& job) const {
  return engine::DecodePages(int64_t(job.prompt.size()), job.sampling.max_new_tokens,
                             options_.limits.drafts, options_.limits.max_context);
}

absl::Status RequestTable::Check(const DecodeJob& job) const {
  const auto prompt = int64_t(job.prompt.size());
  if (job.attempt.value == 0) return absl::InvalidArgumentError("attempt: 0");
  if (prompt == 0) return absl::InvalidArgumentError("prompt_tokens: empty");
  if (job.prefill.empty()) return absl::InvalidArgumentError("prefill: no stage");
  if (prompt >= options_.limits.max_context)
    return absl::InvalidArgumentError(absl::StrCat("the prompt of ", prompt,
                                                   " tokens leaves no room in a context of ",
                                                   options_.limits.max_context, " tokens"));
  if (PagesOf(job) > pool_.total())
    return absl::InvalidArgumentError(
        absl::StrCat("the request can never fit: ", prompt, " prompt tokens and ",
                     job.sampling.max_new_tokens, " new ones need ", PagesOf(job), " pages of ",
                     kPageTokens, " tokens, the pool has ", pool_.total()));
  if (records_.contains(job.attempt))
    return absl::AlreadyExistsError(absl::StrCat("attempt ", job.attempt.value, " is known"));
  return absl::OkStatus();
}

absl::Status RequestTable::Submit(DecodeJob job, std::shared_ptr<TokenBuffer> out) {
  Effects effects;
  {
    MutexLock lock(mu_);
    if (absl::Status bad = Check(job); !bad.ok()) {
      metrics_.rejected_invalid.Increment();
      return bad;
    }
    if (draining_) {
      metrics_.rejected_draining.Increment();
      return absl::UnavailableError("the decode rank is draining");
    }
    if (TooManyInQuarantine()) {  // the group's other ranks may have room
      metrics_.rejected_draining.Increment();
      return absl::ResourceExhaustedError(
          absl::StrCat(pool_.counts().quarantined, " pages wait for writers that do not answer"));
    }
    if (counts_.waiting >= options_.max_waiting) {
      metrics_.rejected_full.Increment();
      return absl::ResourceExhaustedError(
          absl::StrCat(counts_.waiting, " requests wait for decode pages already"));
    }
    metrics_.requests.Increment();
    auto record = std::make_unique<Record>();
    record->prompt_tokens = int(job.prompt.size());
    record->out = std::move(out);
    record->since = clock_.Now();
    const AttemptId attempt = job.attempt;
    record->job = std::move(job);
    counts_.waiting_tokens += record->prompt_tokens;
    Count(State::kWaiting, 1);
    records_.emplace(attempt, std::move(record));
    waiting_.push_back(attempt);
    Admit();
  }
  Run(std::move(effects));
  return absl::OkStatus();
}

// Strictly in order of arrival: a large request at the head is not overtaken for ever.
void RequestTable::Admit() {
  while (!waiting_.empty()) {
    const AttemptId attempt = waiting_.front();
    const auto found = records_.find(attempt);
    if (found != records_.end() && found->second->state == State::kWaiting) {
      Record& record = *found->second;
      auto pages = pool_.Allocate(PagesOf(record.job));
      if (!pages.ok()) break;
      record.pages = *std::move(pages);
      Lend(attempt, record);
    }
    waiting_.pop_front();
  }
  Export();
}

void RequestTable::Lend(AttemptId attempt, Record& record) {
  const std::span lent(record.pages.data(), record.WriterPages());
  pool_.AddWriter(lent);
  metrics_.grant_wait.Observe(Seconds(clock_.Now() - record.since));
  Move(record, Event::kRoom);
  KvReceiver::GrantRequest grant = {.attempt = attempt,
                                    .pages = {lent.begin(), lent.end()},
                                    .prompt_hash = worker::PromptHash(record.job.prompt)};
  for (kv_transfer::PeerAddress& stage : record.job.prefill)
    grant.stages.push_back({.peer = std::move(stage), .components = options_.stage_components});
  grant.stages.back().components |= options_.last_stage_components;
  lender_.grant(std::move(grant));
}

// The only place that changes a state, drops references and counts.
void RequestTable::Move(Record& record, Event event) {
  const auto next = Next(record.state, event);
  BALEEN_CHECK_MSG(next.has_value(), Name(event));
  if (HoldsWriterReference(record.state) && !HoldsWriterReference(*next))
    pool_.DropWriter(std::span(record.pages.data(), record.WriterPages()));
  if (HoldsRequestReference(record.state) && !HoldsRequestReference(*next))
    pool_.DropRequest(record.pages);
  if (record.state == State::kWaiting) counts_.waiting_tokens -= record.prompt_tokens;
  Count(record.state, -1);
  Count(*next, 1);
  record.state = *next;
  record.since = clock_.Now();
}

void RequestTable::Erase(AttemptId attempt, Effects& effects) {
  records_.erase(attempt);
  Admit();
  if (draining_ && counts_.live() == 0) effects.wake = true;
}

void RequestTable::Cancel(AttemptId attempt, const absl::Status& why) {
  Effects effects;
  {
    MutexLock lock(mu_);
    Abort(attempt, why, /*tell_lender=*/true, effects);
  }
  Run(std::move(effects));
}

void RequestTable::CancelAll(const absl::Status& why) {
  Effects effects;
  {
    MutexLock lock(mu_);
    std::vector<AttemptId> all;
    for (const auto& [attempt, record] : records_) all.push_back(attempt);
    for (AttemptId attempt : all) Abort(attempt, why, /*tell_lender=*/true, effects);
  }
  Run(std::move(effects));
}

void RequestTable::Failed(AttemptId attempt, const absl::Status& why) {
  Effects effects;
  {
    MutexLock lock(mu_);
    Abort(attempt, why, /*tell_lender=*/false, effects);
  }
  Run(std::move(effects));
}

void RequestTable::Abort(AttemptId attempt, const absl::Status& why, bool tell_lender,
                         Effects& effects) {
  const auto found = records_.find(attempt);
  if (found == records_.end()) return;
  Record& record = *found->second;
  const State from = record.state;
  if (from == State::kQuarantine || !record.abort.ok()) return;
  record.abort = why;
  metrics_.aborted.Increment();
  effects.closed.emplace_back(record.out, why);
  if (from == State::kRunning) {
    // The step thread may be using the pages: it takes the request out between two steps.
    leaving_.push_back(attempt);
    effects.wake = true;
    return;
  }
  if (tell_lender && from != State::kWaiting) lender_.cancel(attempt, why);
  Move(record, Event::kAborted);
  if (record.state == State::kDone)
    Erase(attempt, effects);
  else
    Admit();  // pages beyond the prompt have no writer and are free already
}

void RequestTable::Settled(AttemptId attempt) {
  Effects effects;
  {
    MutexLock lock(mu_);
    const auto found = records_.find(attempt);
    if (found == records_.end() || found->second->state != State::kQuarantine) return;
    metrics_.quarantine.Observe(Seconds(clock_.Now() - found->second->since));
    Move(*found->second, Event::kSettled);
    Erase(attempt, effects);
  }
  Run(std::move(effects));
}

absl::Status RequestTable::CheckHandoff(const HandoffRecord& handoff, size_t prompt) const {
  const auto limit = uint32_t(options_.limits.vocabulary.limit);
  bool good = handoff.position == prompt && handoff.first_token < limit &&
              int(handoff.draft_tokens.size()) <= options_.limits.drafts;
  for (uint32_t draft : handoff.draft_tokens) good = good && draft < limit;
  if (good) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      "hand-off of token ", handoff.first_token, " at position ", handoff.position, " with ",
      handoff.draft_tokens.size(), " drafts, after a prompt of ", prompt, " tokens"));
}

void RequestTable::Ready(AttemptId attempt, HandoffRecord handoff) {
  auto running = std::make_unique<Running>();
  DecodeJob job;
  std::vector<PageId> pages;
  {
    MutexLock lock(mu_);
    const auto found = records_.find(attempt);
    if (found == records_.end() || found->second->state != State::kGranted) return;
    job = std::move(found->second->job);
    pages = found->second->pages;
    running->out = found->second->out;
    running->handed_off = clock_.Now();
    metrics_.grant_to_handoff.Observe(Seconds(clock_.Now() - found->second->since));
  }
  absl::Status status = CheckHandoff(handoff, job.prompt.size());
  if (status.ok()) {
    running->cached_tokens = int(handoff.cached_tokens);
    running->sequence = engine::StartSequence(
        attempt.value, std::move(job.prompt), std::move(job.sampling), std::move(pages),
        int32_t(handoff.first_token), {handoff.draft_tokens.begin(), handoff.draft_tokens.end()},
        options_.limits);
    status = Emit(attempt, *running, handoff);
  }

  Effects effects;
  {
    MutexLock lock(mu_);
    const auto found = records_.find(attempt);
    // Cancelled meanwhile: the pages are where that left them.
    if (found == records_.end() || found->second->state != State::kGranted) return;
    Record& record = *found->second;
    Move(record, Event::kManifestComplete);
    if (!status.ok()) {
      Abort(attempt, status, /*tell_lender=*/true, effects);
    } else if (running->sequence.finish != engine::FinishReason::kNone) {
      lender_.release(attempt);
      metrics_.finished.Increment();
      Move(record, Event::kFinished);
      Erase(attempt, effects);
    } else {
      record.running = std::move(running);
      ready_.push_back(attempt);
      effects.wake = true;
      Export();
    }
  }
  Run(std::move(effects));
}

// The first token, and the end if that is all.
absl::Status RequestTable::Emit(AttemptId attempt, Running& running, const HandoffRecord& handoff) {
  BALEEN_ASSIGN_OR_RETURN(worker::HandoffLogprobs logprobs,
                          worker::DecodeHandoffLogprobs(handoff.logprobs));
  const engine::DecodeSequence& sequence = running.sequence;
  TokenChunk chunk = {.tokens = {sequence.tokens.back()},
                      .prompt_logprobs = std::move(logprobs.prompt)};
  if (logprobs.first) chunk.logprobs.push_back(*std::move(logprobs.first));
  const bool ends = sequence.finish != engine::FinishReason::kNone;
  if (ends)
    chunk.finish = {
        .reason = sequence.finish, .new_tokens = 1, .cached_tokens = running.cached_tokens};
  if (!running.out->Append(std::move(chunk)))
    return absl::ResourceExhaustedError("the reader of the stream is too slow");
  if (ends) running.out->Close(absl::OkStatus());
  return absl::OkStatus();
}

bool RequestTable::WantsToLeave() const {
  MutexLock lock(mu_);
  return !leaving_.empty();
}

std::optional<TimePoint> RequestTable::OldestReady() const {
  MutexLock lock(mu_);
  for (AttemptId attempt : ready_) {
    const auto found = records_.find(attempt);
    if (found != records_.end() && found->second->state == State::kReady)
      return found->second->since;
  }
  return std::nullopt;
}

RequestTable::Changes RequestTable::Take(bool leave) {
  Changes changes;
  Effects effects;
  {
    MutexLock lock(mu_);
    std::vector<AttemptId> leaving;
    if (leave) leaving.swap(leaving_);
    for (AttemptId attempt : leaving) {
      const auto found = records_.find(attempt);
      // It may have finished in the step that was running.
      if (found == records_.end() || found->second->state != State::kRunning) continue;
      Record& record = *found->second;
      if (!record.released) lender_.cancel(attempt, record.abort);
      Move(record, Event::kAborted);
      Erase(attempt, effects);
      changes.left.push_back(attempt);
    }
    size_t pages = 0;
    while (!ready_.empty() && counts_.running < options_.max_running) {
      const auto found = records_.find(ready_.front());
      if (found != records_.end() && found->second->state == State::kReady) {
        pages += found->second->WriterPages();
        if (!changes.joined.empty() && pages > size_t(options_.join_pages)) break;
        Move(*found->second, Event::kScheduled);
        changes.joined.push_back(std::move(found->second->running));
      }
      ready_.pop_front();
    }
    Export();
  }
  Run(std::move(effects));
  return changes;
}

void RequestTable::FirstStep(const Running& request) {
  MutexLock lock(mu_);
  metrics_.handoff_to_first_step.Observe(Seconds(clock_.Now() - request.handed_off));
  const auto found = records_.find(request.attempt());
  if (found == records_.end() || std::exchange(found->second->released, true)) return;
  lender_.release(request.attempt());
}

void RequestTable::Finish(AttemptId attempt) {
  Effects effects;
  {
    MutexLock lock(mu_);
    const auto found = records_.find(attempt);
    BALEEN_CHECK(found != records_.end());
    if (!found->second->released) lender_.release(attempt);
    metrics_.finished.Increment();
    Move(*found->second, Event::kFinished);
    Erase(attempt, effects);
  }
  Run(std::move(effects));
}

void RequestTable::SetDraining(bool draining) {
  {
    MutexLock lock(mu_);
    draining_ = draining;
  }
  wake_();
}

bool RequestTable::drained() const {
  MutexLock lock(mu_);
  return draining_ && counts_.live() == 0;
}

RequestTable::Counts RequestTable::counts() const {
  MutexLock lock(mu_);
  Counts counts = counts_;
  counts.pages = pool_.counts();
  counts.unready = TooManyInQuarantine();
  return counts;
}

bool RequestTable::TooManyInQuarantine() const {
  return pool_.counts().quarantined * 100 > options_.quarantine_percent * pool_.total();
}

void RequestTable::Count(State state, int delta) {
  switch (state) {
    case State::kWaiting:
      counts_.waiting += delta;
      break;
    case State::kGranted:
      counts_.granted += delta;
      break;
    case State::kReady:
      counts_.ready += delta;
      break;
    case State::kRunning:
      counts_.running += delta;
      break;
    case State::kQuarantine:
      counts_.quarantined += delta;
      break;
    case State::kDone:
      break;
  }
}

void RequestTable::Export() {
  metrics_.waiting.Set(counts_.waiting);
  metrics_.waiting_tokens.Set(double(counts_.waiting_tokens));
  metrics_.granted.Set(counts_.granted);
  metrics_.ready.Set(counts_.ready);
  metrics_.running.Set(counts_.running);
  metrics_.quarantined.Set(counts_.quarantined);
  const engine::PagePool::Counts pages = pool_.counts();
  metrics_.pages_free.Set(pages.free);
  metrics_.pages_request.Set(pages.request);
  metrics_.pages_quarantined.Set(pages.quarantined);
}

void RequestTable::Run(Effects effects) {
  for (const auto& [out, why] : effects.closed) out->Close(why);
  if (effects.wake) wake_();
}

}  // namespace baleen::decode_worker
