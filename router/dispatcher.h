#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <unordered_set>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/ids.h"
#include "common/mutex.h"
#include "router/generation_events.h"
#include "router/placement/placement.h"
#include "router/router_metrics.h"
#include "router/worker_clients.h"
#include "router/worker_directory.h"

namespace baleen::router {

// One sequence to generate.
struct DispatchRequest {
  TokenIds prompt;
  std::shared_ptr<const v1::SamplingParams> sampling;
  int max_new_tokens = 1;  // the one in `sampling`
  TimePoint received;      // when the client's request had been read
};

enum class CancelReason : uint8_t { kClientGone, kStopMatched };

// A submitted request. Dropping it does not cancel it.
class RequestHandle {
 public:
  virtual ~RequestHandle() = default;
  // Aborts both legs at once, or leaves the queue. Any thread, any number of times.
  virtual void Cancel(CancelReason reason) = 0;
  // The same, but the sink is told `why`.
  virtual void Abort(absl::Status why) = 0;
};

class Flight;

// Takes requests through their life (request_state.h): the only file that knows the order of calls
// to the workers. A decode rank and a prefill group are chosen together, both streams start at the
// same time, and either one failing cancels the other at once. Before the first token a failed
// attempt is tried once more, under a new attempt id, on another pair. Requests that find no ready
// pair wait in a bounded queue.
//
// Order of the queue: whenever the cluster changes, every waiting request is tried, oldest first,
// so that of those that compete for a pair the oldest gets it, and one that no pair can take now
// does not hold up those that another pair can take. None starves: from half of `queue_timeout` on,
// the groups that a request could use are closed to all behind it (PlacementRound). From this
// router they get only second attempts then, so they work off what they have, until a prefill group
// and a decode rank among them have fewer waiting than `max_waiting`; the oldest request is tried
// first.
//
// Threads: any; nothing blocks. Tick every 100 ms. Must outlive every request it was given: destroy
// the WorkerClients' streams first.
class Dispatcher final : public DirectoryListener {
 public:
  struct Options {
    PlacementOptions placement;
    int max_queued = 1024;
    Duration queue_timeout = std::chrono::seconds(30);
  };
  // All references must outlive this. Installs itself as the directory's listener.
  Dispatcher(Options options, WorkerDirectory& directory, WorkerClients& clients,
             const Clock& clock, RouterMetrics& metrics);
  ~Dispatcher() override;

  // ResourceExhausted when the queue is full. Otherwise `sink` gets everything else, from worker
  // threads or Tick, possibly before Submit returns.
  absl::StatusOr<std::shared_ptr<RequestHandle>> Submit(DispatchRequest request,
                                                        std::shared_ptr<GenerationSink> sink);

  // Fails what has waited too long.
  void Tick();

  // Requests queued or running.
  int live() const;
  // Fails every request with Unavailable; for the end of a drain.
  void FailAll(absl::string_view why);

  void OnClusterChanged() override;
  void OnGroupDead(GroupId group, absl::string_view why) override;

 private:
  friend class Flight;

  // Gives every queued request that can go now to a pair, oldest first.
  void Pump() ABSL_LOCKS_EXCLUDED(mu_);
  PolicyInput Decision() const { return {.sequence = placed_, .random = RandomId()}; }
  // Places a flight whose attempt failed before the first token.
  bool Retry(const std::shared_ptr<Flight>& flight);
  bool RetryAllowed() const;
  void Enqueue(std::shared_ptr<Flight> flight) ABSL_LOCKS_EXCLUDED(mu_);
  // Whether it was queued.
  bool Unqueue(const Flight* flight) ABSL_LOCKS_EXCLUDED(mu_);
  // Whether it still waits, behind as many as may wait.
  bool BeyondQueue(const Flight* flight) const ABSL_LOCKS_EXCLUDED(mu_);
  void Forget(const std::shared_ptr<Flight>& flight) ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<std::shared_ptr<Flight>> Live() const ABSL_LOCKS_EXCLUDED(mu_);

  const Options options_;
  WorkerDirectory& directory_;
  WorkerClients& clients_;
  const Clock& clock_;
  RouterMetrics& metrics_;
  std::atomic<uint64_t> placed_{0};  // attempts, so that policies take turns
  std::atomic<int> live_retries_{0};
  mutable Mutex mu_;  // never held while calling out
  std::deque<std::shared_ptr<Flight>> queue_ ABSL_GUARDED_BY(mu_);
  std::unordered_set<std::shared_ptr<Flight>> flights_ ABSL_GUARDED_BY(mu_);
};

}  // namespace baleen::router
