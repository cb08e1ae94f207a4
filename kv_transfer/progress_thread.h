#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/clock.h"
#include "common/mutex.h"

namespace baleen::kv_transfer {

// The one thread that touches a stateful foreign object (a UCX worker). Everybody else hands it
// tasks. It spins for `spin` after its last work, then sleeps in epoll: an idle process uses no
// CPU.
//
//   Post(), Every()   any thread, never block; tasks run FIFO
//   poller, tasks     this thread only; so the objects they use need no lock
//   ~                 runs what was posted before it, then joins
//
// Declare it AFTER the objects its tasks touch: members die in reverse, so the thread is gone
// first.
class ProgressThread {
 public:
  using Task = std::function<void()>;
  using Tick = std::function<bool()>;

  // What the thread waits for besides tasks; all of it may be empty.
  struct Poller {
    std::function<bool()> poll;  // makes progress; says whether it did any
    std::function<bool()> arm;   // before sleeping; false: something is pending, poll again
    int fd = -1;                 // readable when an event comes after arm; not owned
    // Something is under way whose progress may raise no event (UCX: room in a shared-memory
    // queue). While true the thread yields instead of sleeping for kWaitSpin, then sleeps 1 ms at
    // most.
    std::function<bool()> waiting;
  };

  // `name` is at most 15 characters (pthread_setname_np).
  ProgressThread(const std::string& name, Poller poller, Duration spin);
  ~ProgressThread();

  void Post(Task task) ABSL_LOCKS_EXCLUDED(mu_);
  // Calls `tick` about every `period`, first after one period, until it returns false.
  void Every(Duration period, Tick tick);
  bool OnThread() const { return std::this_thread::get_id() == thread_id_.load(); }

 private:
  struct Timer {
    Duration period;
    TimePoint next;
    Tick tick;
  };

  void Loop();
  bool RunTasks() ABSL_LOCKS_EXCLUDED(mu_);
  bool RunTimers(TimePoint now);
  void Sleep(TimePoint now) ABSL_LOCKS_EXCLUDED(mu_);
  bool HasTasks() ABSL_LOCKS_EXCLUDED(mu_);

  const Poller poller_;
  const Duration spin_;
  int epoll_fd_ = -1;
  int event_fd_ = -1;
  std::atomic<bool> stop_{false};
  std::atomic<bool> asleep_{false};
  std::atomic<std::thread::id> thread_id_;
  Mutex mu_;
  std::vector<Task> tasks_ ABSL_GUARDED_BY(mu_);
  std::vector<Timer> timers_;  // thread only
  std::thread thread_;         // last: starts when everything above exists
};

}  // namespace baleen::kv_transfer
