#pragma once

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "common/mutex.h"

namespace baleen::testing {

// What happened, in order, from any thread; tests wait for an entry instead of sleeping.
class EventLog {
 public:
  void Add(std::string event) {
    {
      MutexLock lock(mu_);
      events_.push_back(std::move(event));
    }
    added_.NotifyAll();
  }

  // False when `event` has not happened `count` times within the time.
  bool WaitFor(const std::string& event, int count = 1,
               std::chrono::milliseconds timeout = std::chrono::seconds(10)) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    MutexLock lock(mu_);
    while (std::count(events_.begin(), events_.end(), event) < count)
      if (!added_.WaitUntil(mu_, deadline)) return false;
    return true;
  }

  std::vector<std::string> events() {
    MutexLock lock(mu_);
    return events_;
  }

 private:
  Mutex mu_;
  CondVar added_;
  std::vector<std::string> events_ ABSL_GUARDED_BY(mu_);
};

}  // namespace baleen::testing
