#pragma once

#include <climits>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "decode_worker/decode_job.h"
#include "decode_worker/decode_metrics.h"
#include "decode_worker/request_state.h"
#include "decode_worker/token_buffer.h"
#include "engine/decode_step.h"
#include "engine/page_pool.h"
#include "kv_transfer/kv_receiver.h"

namespace baleen::decode_worker {

struct RequestTableOptions {
  int pages = 0;  // of the pool
  int max_running = 64;
  int max_waiting = 4096;
  int join_pages = INT_MAX;    // of prompts that join one step, unless one prompt alone has more
  int quarantine_percent = 5;  // of the pool; above it nothing new is taken
  engine::DecodeLimits limits;
  uint32_t stage_components = kv_transfer::kComponentLatent;  // that every prefill stage brings
  uint32_t last_stage_components = 0;                         // that the last one brings as well
};

// What the table asks of KvReceiver. Called with the table's lock held, which is what keeps a grant
// before its cancel: they must only post, never block or call back.
struct KvLender {
  std::function<void(kv_transfer::KvReceiver::GrantRequest)> grant;
  std::function<void(AttemptId)> release;
  std::function<void(AttemptId, const absl::Status&)> cancel;
};

// Every request of one decode rank, and the rank's pages.
//
// Admission does not ride the step loop: Submit, and every event that frees pages, reserves pages
// for the requests at the head of the queue, in order of arrival, and sends their grants. A request
// gets all its pages at once (prompt, max_new_tokens, drafts), so a running sequence never waits
// for one. A finished hand-over emits the first token right away and, unless that ends the request,
// waits in kReady for the next step.
//
// An abort ends the request's stream at once; its pages go as request_state.h says.
//
// Threads: Submit, Cancel, CancelAll, SetDraining, drained, counts, OldestReady from any; Ready,
// Failed, Settled on the transport's; Take, FirstStep, Finish on the step thread. Token buffers are
// called without the lock.
class RequestTable {
 public:
  // A request between hand-over and end, owned by the step thread once taken.
  struct Running {
    engine::DecodeSequence sequence;  // id: the attempt
    std::shared_ptr<TokenBuffer> out;
    TimePoint handed_off;
    int cached_tokens = 0;

    AttemptId attempt() const { return {sequence.id}; }
  };
  struct Counts {
    int waiting = 0, granted = 0, ready = 0, running = 0, quarantined = 0;
    int64_t waiting_tokens = 0;
    engine::PagePool::Counts pages;
    bool unready = false;  // nothing new is taken: too many pages are in quarantine
    int live() const { return waiting + granted + ready + running; }
  };

  // `wake`: there is something to take, or the table is drained; any thread, must not block.
  RequestTable(RequestTableOptions options, KvLender lender, std::function<void()> wake,
               DecodeMetrics& metrics, const Clock& clock = SteadyClock());

  // InvalidArgument: can never be served here. ResourceExhausted: queue full, or too
  // many pages in quarantine. Unavailable: draining. AlreadyExists: the attempt is known. On
  // success the end of the request comes through `out`.
  absl::Status Submit(DecodeJob job, std::shared_ptr<TokenBuffer> out);
  // Ends the request early, whatever its state; unknown attempts are ignored.
  void Cancel(AttemptId attempt, const absl::Status& why);
  // Ends all of them.
  void CancelAll(const absl::Status& why);

  // KvReceiver's callbacks.
  void Ready(AttemptId attempt, kv_transfer::HandoffRecord record);
  void Failed(AttemptId attempt, const absl::Status& why);
  void Settled(AttemptId attempt);

  // For the next step: requests that join it, in order of their hand-over, and attempts that leave
  // it because they were cancelled (their pages are free when this returns). `leave` false, while a
  // step under way writes pages: nobody leaves yet.
  struct Changes {
    std::vector<std::unique_ptr<Running>> joined;
    std::vector<AttemptId> left;
  };
  Changes Take(bool leave = true);
  bool WantsToLeave() const;  // was a running request cancelled?
  // Since when the oldest request waits to join a step; nullopt: none. For a watchdog.
  std::optional<TimePoint> OldestReady() const;
  // The first step of a request is done: prefill may drop its pages.
  void FirstStep(const Running& request);
  // The request ended by itself; its last tokens are in its buffer.
  void Finish(AttemptId attempt);

  // Nothing new is taken (Unavailable), or again.
  void SetDraining(bool draining);
  // Draining, and nothing is left but quarantined pages.
  bool drained() const;
  Counts counts() const;

 private:
  struct Record {
    State state = State::kWaiting;
    DecodeJob job;
    std::shared_ptr<TokenBuffer> out;
    std::vector<PageId> pages;
    std::unique_ptr<Running> running;  // kReady
    int prompt_tokens = 0;
    TimePoint since;  // entry into the state
    bool released = false;
    absl::Status abort;  // kRunning: why it must leave
    size_t WriterPages() const { return size_t(PagesFor(prompt_tokens)); }
  };
  using Records = absl::flat_hash_map<AttemptId, std::unique_ptr<Record>>;
  // Done after the lock is gone.
  struct Effects {
    std::vector<std::pair<std::shared_ptr<TokenBuffer>, absl::Status>> closed;
    bool wake = false;
  };

  absl::Status Check(const DecodeJob& job) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool TooManyInQuarantine() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  int PagesOf(const DecodeJob& job) const;
  void Move(Record& record, Event event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Erase(AttemptId attempt, Effects& effects) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Admit() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Lend(AttemptId attempt, Record& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Abort(AttemptId attempt, const absl::Status& why, bool tell_lender, Effects& effects)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Count(State state, int delta) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Export() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Run(Effects effects) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status CheckHandoff(const kv_transfer::HandoffRecord& handoff, size_t prompt) const;
  absl::Status Emit(AttemptId attempt, Running& running, const kv_transfer::HandoffRecord& record);

  const RequestTableOptions options_;
  const KvLender lender_;
  const std::function<void()> wake_;
  DecodeMetrics& metrics_;
  const Clock& clock_;

  mutable Mutex mu_;
  engine::PagePool pool_ ABSL_GUARDED_BY(mu_);
  Records records_ ABSL_GUARDED_BY(mu_);
  std::deque<AttemptId> waiting_ ABSL_GUARDED_BY(mu_);  // by arrival; may name aborted ones
  std::deque<AttemptId> ready_ ABSL_GUARDED_BY(mu_);    // by hand-over; may name aborted ones
  std::vector<AttemptId> leaving_ ABSL_GUARDED_BY(mu_);
  Counts counts_ ABSL_GUARDED_BY(mu_);  // without pages
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace baleen::decode_worker
