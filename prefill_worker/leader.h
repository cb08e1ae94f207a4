#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "common/clock.h"
#include "common/ids.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "engine/page_pool.h"
#include "engine/prefix_cache.h"
#include "prefill_worker/batch_header.h"
#include "prefill_worker/chunk_scheduler.h"
#include "prefill_worker/prefill_job.h"
#include "prefill_worker/stage_report.h"

namespace baleen::prefill_worker {

struct LeaderOptions {
  int stages = 1;
  ChunkLimits chunk;
  int pages = 0;  // that every stage's pool has
  int drafts = 0;
  int max_context = 0;  // tokens
  bool prefix_cache = true;
  int64_t max_ungranted_tokens = 262144;
  int max_queued = 4096;
};

// Stage 0's brain: the queue, the page ids of the whole group, the prefix cache, and what each
// batch contains. It decides; the other stages obey the numbered headers in order.
//
// Life of an attempt: queued -> computing (its pages are taken, chunks are scheduled) -> sending
// (all chunks are scheduled, stages push pages) -> gone once every stage has reported kEnded.
// Cancel or a failure on any stage marks it; the next header tells all stages, at most one batch
// later. Pages return when all stages have ended with it, never before: a later stage may still
// write them, the transport may still read them (R1 of kv_transfer/README.md).
//
// Attempts start in order of arrival, those that decode has granted before the others. Decode lends
// its pages in an order of its own, so attempts that wait for pages there could hold pages here
// that a granted attempt waits for. Hence those without a grant leave room for the longest prompt
// there can be: a granted attempt needs only the end of other granted ones. So every granted
// attempt gets its turn, and every decode rank its pages back. In a pool of one context nothing is
// computed before its grant.
//
// At most stages + 1 batches are under way, so a new prompt waits for one micro-batch at most,
// however deep the pipeline is.
//
// Threads: Submit, Cancel, Granted, Report, Drain, FlushCache, flushed, Stop, Break, load,
// OldestWork from any; NextBatch on the step thread, where all decisions are made. Sinks are
// called on the step thread, their Finished also by Break.
class Leader {
 public:
  struct Load {
    int total_pages = 0;  // that all stages have: the smallest pool's
    int free_pages = 0;   // the prefix cache's count as free
    int running = 0;
    int waiting = 0;
    int64_t waiting_tokens = 0;    // not computed yet
    int64_t ungranted_tokens = 0;  // of attempts that decode has not granted
  };

  Leader(const LeaderOptions& options, Metrics& metrics);
  ~Leader();

  // InvalidArgument: the prompt can never be served (names the limit). ResourceExhausted: queue
  // full. Unavailable: draining. AlreadyExists: that attempt is here. Otherwise the sink hears of
  // it.
  absl::Status Submit(PrefillJob job, std::shared_ptr<PrefillSink> sink) ABSL_LOCKS_EXCLUDED(mu_);
  void Cancel(AttemptId attempt) ABSL_LOCKS_EXCLUDED(mu_);
  // Decode lent pages for it. Also before Submit, and more than once.
  void Granted(AttemptId attempt) ABSL_LOCKS_EXCLUDED(mu_);
  void Report(StageReport report) ABSL_LOCKS_EXCLUDED(mu_);
  void Drain(bool on) ABSL_LOCKS_EXCLUDED(mu_);
  // Forgets all cached prefixes soon; which flush this is, counted from 1.
  uint64_t FlushCache() ABSL_LOCKS_EXCLUDED(mu_);
  // The last flush that is done, and all before it.
  uint64_t flushed() const ABSL_LOCKS_EXCLUDED(mu_);

  // The next batch; blocks until there is one. nullopt after Stop or Break.
  std::optional<BatchHeader> NextBatch() ABSL_LOCKS_EXCLUDED(mu_);
  void Stop() ABSL_LOCKS_EXCLUDED(mu_);
  // The group is over: every attempt ends with `why` at once, whatever the step thread is doing,
  // and so does every later Submit. The first cause stays.
  void Break(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mu_);

  // Ok: no attempt is left. DeadlineExceeded: some are at `deadline`. Otherwise why it broke.
  absl::Status WaitIdle(TimePoint deadline) ABSL_LOCKS_EXCLUDED(mu_);
  // When the oldest batch began that the last stage has not reported as done, or the oldest event
  // came that NextBatch has not looked at; nullopt: neither. For a watchdog.
  std::optional<TimePoint> OldestWork() const ABSL_LOCKS_EXCLUDED(mu_);
  Load load() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Attempt;
  struct Submission {
    PrefillJob job;
    std::shared_ptr<PrefillSink> sink;
  };
  struct Cancellation {
    AttemptId attempt;
  };
  struct GrantNotice {
    AttemptId attempt;
  };
  struct Flush {};
  // What other threads have for the step thread, in order of arrival: the first error wins (R7).
  using Event = std::variant<Submission, Cancellation, GrantNotice, StageReport, Flush>;

  // Step thread:
  std::vector<Event> TakeInbox(bool wait) ABSL_LOCKS_EXCLUDED(mu_);
  void Apply(Submission& submission);
  void Apply(const Cancellation& cancellation);
  void Apply(const GrantNotice& grant);
  void Apply(const StageReport& report);
  void Apply(const Flush&) ABSL_LOCKS_EXCLUDED(mu_);
  void OnBatchDone(uint64_t number);
  void Fail(AttemptId id, const absl::Status& why);
  void Finish(Attempt& attempt);
  BatchHeader Plan();
  void PlanAborts(BatchHeader& header);
  void StartQueued(BatchHeader& header);
  bool StartOne(Attempt& attempt, BatchHeader& header);
  bool MayStartUngranted(const Attempt& attempt) const;
  int PagesNeeded(int64_t tokens) const;
  void PlanEntries(BatchHeader& header);
  Attempt* Find(AttemptId id);
  void PublishLoad() ABSL_LOCKS_EXCLUDED(mu_);

  void AddEvent(Event event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Push(Event event) ABSL_LOCKS_EXCLUDED(mu_);

  const LeaderOptions options_;
  engine::PagePool pool_;
  engine::PrefixCache cache_;
  std::map<uint64_t, std::unique_ptr<Attempt>> attempts_;  // by order of arrival
  std::map<AttemptId, uint64_t> order_of_;
  std::set<AttemptId> early_grants_;  // of attempts that are not here yet; the oldest are dropped
  std::deque<AttemptId> early_order_;
  uint64_t next_order_ = 0;
  uint64_t next_batch_ = 1;
  int64_t ungranted_tokens_ = 0;

  prometheus::Histogram& queue_seconds_;
  prometheus::Histogram& compute_seconds_;
  prometheus::Histogram& grant_wait_seconds_;
  prometheus::Histogram& batch_rows_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& cached_tokens_;

  mutable Mutex mu_;
  CondVar changed_;
  std::vector<Event> inbox_ ABSL_GUARDED_BY(mu_);
  TimePoint inbox_since_ ABSL_GUARDED_BY(mu_);  // of its first
  // Submitted and not finished.
  std::map<AttemptId, std::shared_ptr<PrefillSink>> known_ ABSL_GUARDED_BY(mu_);
  std::map<uint64_t, TimePoint> under_way_ ABSL_GUARDED_BY(mu_);  // batches, by number
  uint64_t flushes_ ABSL_GUARDED_BY(mu_) = 0;                     // asked for
  uint64_t flushed_ ABSL_GUARDED_BY(mu_) = 0;
  Load load_ ABSL_GUARDED_BY(mu_);
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status broken_ ABSL_GUARDED_BY(mu_);
};

}  // namespace baleen::prefill_worker
