#include "prefill_worker/leader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/kv_layout.h"
#include "common/log.h"
#include "engine/memory_plan.h"

namespace baleen::prefill_worker {
namespace {

// Grants kept whose attempt is not here yet; decode repeats a grant while it lasts.
constexpr size_t kMaxEarlyGrants = 4096;

}  // namespace

struct Leader::Attempt {
  PrefillJob job;
  std::shared_ptr<PrefillSink> sink;
  TimePoint arrived;
  TimePoint begun;
  bool started = false;  // a header has named it: the stages know it
  bool granted = false;
  bool abort_sent = false;
  std::vector<PageId> pages;
  int64_t scheduled = 0;    // tokens that headers have asked for, cached ones included
  uint64_t last_batch = 0;  // the one that ends the prompt; 0: not scheduled yet
  int ended_stages = 0;
  absl::Status failure;  // first error wins (R7)

  int64_t total() const { return static_cast<int64_t>(job.prompt.size()); }
  bool computing() const { return started && failure.ok() && scheduled < total(); }
};

Leader::Leader(const LeaderOptions& options, Metrics& metrics)
    : options_(options),
      pool_(options.pages),
      cache_(pool_, options.drafts > 0),
      queue_seconds_(metrics.Seconds("prefill_queue_seconds", "From arrival to the first batch.")),
      compute_seconds_(metrics.Seconds("prefill_compute_seconds",
                                       "From the first batch to the end of the prompt's last.")),
      grant_wait_seconds_(
          metrics.Seconds("prefill_grant_wait_seconds", "From the first batch to decode's grant.")),
      batch_rows_(metrics.Histogram("prefill_batch_rows", "Rows of a batch.",
                                    {1, 16, 64, 256, 1024, 2048, 4096, 8192, 16384})),
      prompt_tokens_(metrics.Counter("prefill_prompt_tokens_total", "Prompt tokens started.")),
      cached_tokens_(metrics.Counter("prefill_cached_tokens_total",
                                     "Prompt tokens found in the prefix cache.")) {
  PublishLoad();
}

Leader::~Leader() = default;

absl::Status Leader::Submit(PrefillJob job, std::shared_ptr<PrefillSink> sink) {
  const auto tokens = static_cast<int64_t>(job.prompt.size());
  if (tokens >= options_.max_context)
    return absl::InvalidArgumentError(absl::StrCat("prompt_tokens: ", tokens,
                                                   " leave no room for an answer in a context of ",
                                                   options_.max_context));
  const int pages = PagesNeeded(tokens);
  if (pages > options_.pages)
    return absl::InvalidArgumentError(absl::StrCat("prompt_tokens: ", tokens, " need ", pages,
                                                   " pages, the prefill pool has ",
                                                   options_.pages));
  {
    MutexLock lock(mu_);
    if (!broken_.ok()) return broken_;
    if (draining_ || stopped_) return absl::UnavailableError("prefill group is draining");
    if (static_cast<int>(known_.size()) >= options_.max_queued)
      return absl::ResourceExhaustedError(
          absl::StrCat("prefill queue is full: ", options_.max_queued, " requests"));
    if (!known_.emplace(job.attempt, sink).second)
      return absl::AlreadyExistsError("attempt: is here already");
    AddEvent(Submission{std::move(job), std::move(sink)});
  }
  changed_.NotifyAll();
  return absl::OkStatus();
}

void Leader::Push(Event event) {
  {
    MutexLock lock(mu_);
    AddEvent(std::move(event));
  }
  changed_.NotifyAll();
}

void Leader::Cancel(AttemptId attempt) { Push(Cancellation{attempt}); }
void Leader::Granted(AttemptId attempt) { Push(GrantNotice{attempt}); }
void Leader::Report(StageReport report) { Push(std::move(report)); }

uint64_t Leader::FlushCache() {
  uint64_t number = 0;
  {
    MutexLock lock(mu_);
    number = ++flushes_;
  }
  Push(Flush{});
  return number;
}

uint64_t Leader::flushed() const {
  MutexLock lock(mu_);
  return flushed_;
}

void Leader::Drain(bool on) {
  MutexLock lock(mu_);
  draining_ = on;
}

void Leader::Stop() {
  {
    MutexLock lock(mu_);
    stopped_ = true;
  }
  changed_.NotifyAll();
}

void Leader::Break(const absl::Status& why) {
  std::map<AttemptId, std::shared_ptr<PrefillSink>> known;
  {
    MutexLock lock(mu_);
    if (!broken_.ok()) return;
    broken_ = why;
    stopped_ = true;
    known.swap(known_);
  }
  changed_.NotifyAll();
  for (const auto& [id, sink] : known) sink->Finished(why);
}

absl::Status Leader::WaitIdle(TimePoint deadline) {
  MutexLock lock(mu_);
  while (!known_.empty() && broken_.ok())
    if (!changed_.WaitUntil(mu_, deadline)) break;
  if (!broken_.ok() || known_.empty()) return broken_;
  return absl::DeadlineExceededError(absl::StrCat(known_.size(), " attempts are left"));
}

void Leader::AddEvent(Event event) {
  if (inbox_.empty()) inbox_since_ = SteadyClock().Now();
  inbox_.push_back(std::move(event));
}

std::optional<TimePoint> Leader::OldestWork() const {
  MutexLock lock(mu_);
  if (under_way_.empty() && inbox_.empty()) return std::nullopt;
  if (under_way_.empty()) return inbox_since_;
  const TimePoint batch = under_way_.begin()->second;
  return inbox_.empty() ? batch : std::min(batch, inbox_since_);
}

Leader::Load Leader::load() const {
  MutexLock lock(mu_);
  return load_;
}

std::optional<BatchHeader> Leader::NextBatch() {
  for (bool wait = false;; wait = true) {
    for (Event& event : TakeInbox(wait)) std::visit([this](auto& e) { Apply(e); }, event);
    {
      MutexLock lock(mu_);
      if (stopped_) return std::nullopt;
    }
    BatchHeader header = Plan();
    PublishLoad();
    if (header.starts.empty() && header.entries.empty() && header.aborts.empty()) continue;
    header.number = next_batch_++;
    return header;
  }
}

std::vector<Leader::Event> Leader::TakeInbox(bool wait) {
  MutexLock lock(mu_);
  while (wait && inbox_.empty() && !stopped_) changed_.Wait(mu_);
  return std::exchange(inbox_, {});
}

void Leader::Apply(Submission& submission) {
  auto attempt = std::make_unique<Attempt>();
  attempt->job = std::move(submission.job);
  attempt->sink = std::move(submission.sink);
  attempt->arrived = SteadyClock().Now();
  attempt->granted = early_grants_.erase(attempt->job.attempt) > 0;
  order_of_[attempt->job.attempt] = next_order_;
  attempts_[next_order_++] = std::move(attempt);
}

void Leader::Apply(const Cancellation& cancellation) {
  Fail(cancellation.attempt, absl::CancelledError("cancelled by the router"));
}

void Leader::Apply(const GrantNotice& grant) {
  Attempt* attempt = Find(grant.attempt);
  if (attempt == nullptr) {
    if (early_grants_.insert(grant.attempt).second) early_order_.push_back(grant.attempt);
    if (early_order_.size() <= kMaxEarlyGrants) return;
    early_grants_.erase(early_order_.front());
    early_order_.pop_front();
    return;
  }
  if (std::exchange(attempt->granted, true) || !attempt->started) return;
  ungranted_tokens_ -= attempt->total();
  grant_wait_seconds_.Observe(SecondsSince(attempt->begun));
}

void Leader::Apply(const Flush&) {
  cache_.Flush();
  MutexLock lock(mu_);
  ++flushed_;
}

void Leader::Apply(const StageReport& report) {
  if (report.kind == StageReport::Kind::kBatchDone) return OnBatchDone(report.batch);
  Attempt* attempt = Find(report.attempt);
  if (attempt == nullptr) return;
  switch (report.kind) {
    case StageReport::Kind::kBatchDone:
      return;
    case StageReport::Kind::kHandedOff:
      return attempt->sink->HandedOff();
    case StageReport::Kind::kFailed:
      return Fail(report.attempt, report.status);
    case StageReport::Kind::kEnded:
      if (attempt->failure.ok()) attempt->failure = report.status;
      if (++attempt->ended_stages == options_.stages) Finish(*attempt);
      return;
  }
}

void Leader::OnBatchDone(uint64_t number) {
  {
    MutexLock lock(mu_);
    under_way_.erase(number);
  }
  for (auto& [order, attempt] : attempts_) {
    if (attempt->last_batch != number) continue;
    compute_seconds_.Observe(SecondsSince(attempt->begun));
    // Only what every stage computed without a fault may be found again (T-G8).
    if (attempt->failure.ok() && options_.prefix_cache)
      cache_.Insert(attempt->job.prompt,
                    std::span(attempt->pages).first(attempt->job.prompt.size() / kPageTokens));
  }
}

void Leader::Fail(AttemptId id, const absl::Status& why) {
  Attempt* attempt = Find(id);
  if (attempt == nullptr || !attempt->failure.ok()) return;
  attempt->failure = why;
  if (!attempt->started) Finish(*attempt);
}

void Leader::Finish(Attempt& attempt) {
  pool_.DropRequest(attempt.pages);
  if (attempt.started && !attempt.granted) ungranted_tokens_ -= attempt.total();
  const AttemptId id = attempt.job.attempt;
  const std::shared_ptr<PrefillSink> sink = std::move(attempt.sink);
  const absl::Status status = std::move(attempt.failure);
  attempts_.erase(order_of_.at(id));
  order_of_.erase(id);
  {
    MutexLock lock(mu_);
    if (known_.erase(id) == 0) return;  // Break has told it
  }
  sink->Finished(status);
  changed_.NotifyAll();
}

BatchHeader Leader::Plan() {
  BatchHeader header;
  PlanAborts(header);
  {
    MutexLock lock(mu_);
    if (static_cast<int>(under_way_.size()) > options_.stages) return header;
  }
  StartQueued(header);
  PlanEntries(header);
  return header;
}

void Leader::PlanAborts(BatchHeader& header) {
  for (auto& [order, attempt] : attempts_) {
    if (attempt->failure.ok() || !attempt->started || attempt->abort_sent) continue;
    attempt->abort_sent = true;
    header.aborts.push_back({.attempt = attempt->job.attempt,
                             .code = static_cast<uint32_t>(attempt->failure.code()),
                             .why = std::string(attempt->failure.message())});
  }
}

void Leader::StartQueued(BatchHeader& header) {
  int computing = 0;
  for (auto& [order, attempt] : attempts_) computing += attempt->computing();
  for (const bool granted : {true, false}) {
    for (auto& [order, attempt] : attempts_) {
      if (attempt->started || attempt->granted != granted) continue;
      if (computing >= options_.chunk.sequences) return;
      if (!StartOne(*attempt, header)) return;  // nobody overtakes within its kind
      ++computing;
    }
  }
}

int Leader::PagesNeeded(int64_t tokens) const {
  return engine::PrefillPages(tokens, options_.drafts, options_.max_context);
}

bool Leader::MayStartUngranted(const Attempt& attempt) const {
  if (ungranted_tokens_ > 0 && ungranted_tokens_ + attempt.total() > options_.max_ungranted_tokens)
    return false;
  int pages = PagesNeeded(attempt.total()) + PagesNeeded(options_.max_context - 1);
  for (const auto& [order, other] : attempts_)
    if (other->started && !other->granted) pages += static_cast<int>(other->pages.size());
  return pages <= pool_.total();
}

bool Leader::StartOne(Attempt& attempt, BatchHeader& header) {
  const int64_t total = attempt.total();
  if (!attempt.granted && !MayStartUngranted(attempt)) return false;
  std::vector<PageId> pages;
  if (options_.prefix_cache && attempt.job.use_cache) pages = cache_.Acquire(attempt.job.prompt);
  const auto cached = static_cast<int64_t>(pages.size()) * kPageTokens;
  auto fresh = cache_.Allocate(PagesNeeded(total) - static_cast<int>(pages.size()));
  if (!fresh.ok()) {
    pool_.DropRequest(pages);
    return false;
  }
  pages.insert(pages.end(), fresh->begin(), fresh->end());

  attempt.pages = std::move(pages);
  attempt.started = true;
  attempt.scheduled = cached;
  attempt.begun = SteadyClock().Now();
  if (attempt.granted)
    grant_wait_seconds_.Observe(0);
  else
    ungranted_tokens_ += total;
  queue_seconds_.Observe(SecondsSince(attempt.arrived));
  prompt_tokens_.Increment(static_cast<double>(total));
  cached_tokens_.Increment(static_cast<double>(cached));
  AttemptStart start{.attempt = attempt.job.attempt,
                     .decode = attempt.job.decode,
                     .prompt = attempt.job.prompt,
                     .cached_tokens = static_cast<int32_t>(cached),
                     .sampling = attempt.job.sampling};
  for (PageId page : attempt.pages) start.pages.push_back(page.value);
  header.starts.push_back(std::move(start));
  attempt.sink->Started(static_cast<int>(cached));
  return true;
}

void Leader::PlanEntries(BatchHeader& header) {
  std::vector<Attempt*> attempts;
  std::vector<ChunkCandidate> candidates;
  for (auto& [order, attempt] : attempts_) {
    if (!attempt->computing()) continue;
    attempts.push_back(attempt.get());
    candidates.push_back({attempt->scheduled, attempt->total()});
  }
  for (const Chunk& chunk : PlanBatch(candidates, options_.chunk)) {
    Attempt& attempt = *attempts[chunk.candidate];
    header.entries.push_back(
        {attempt.job.attempt, static_cast<int32_t>(chunk.first), static_cast<int32_t>(chunk.rows)});
    attempt.scheduled += chunk.rows;
    if (attempt.scheduled == attempt.total()) attempt.last_batch = next_batch_;
  }
  if (header.entries.empty()) return;
  {
    MutexLock lock(mu_);
    under_way_.emplace(next_batch_, SteadyClock().Now());
  }
  batch_rows_.Observe(header.rows());
}

Leader::Attempt* Leader::Find(AttemptId id) {
  const auto it = order_of_.find(id);
  return it == order_of_.end() ? nullptr : attempts_.at(it->second).get();
}

void Leader::PublishLoad() {
  Load load{.total_pages = pool_.total(),
            .free_pages = cache_.available(),
            .ungranted_tokens = ungranted_tokens_};
  for (const auto& [order, attempt] : attempts_) {
    ++(attempt->started ? load.running : load.waiting);
    if (attempt->failure.ok()) load.waiting_tokens += attempt->total() - attempt->scheduled;
  }
  MutexLock lock(mu_);
  load_ = load;
}

}  // namespace baleen::prefill_worker
