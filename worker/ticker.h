#pragma once

#include <pthread.h>

#include <chrono>
#include <functional>
#include <thread>
#include <utility>

#include "common/mutex.h"

namespace baleen::worker {

// Calls `tick` every `period` on its own thread until destroyed. Declare it last.
class Ticker {
 public:
  Ticker(std::chrono::milliseconds period, std::function<void()> tick)
      : period_(period), tick_(std::move(tick)), thread_([this] { Run(); }) {}
  ~Ticker() {
    {
      MutexLock lock(mu_);
      stop_ = true;
    }
    wake_.NotifyAll();
    thread_.join();
  }

 private:
  void Run() {
    pthread_setname_np(pthread_self(), "ticker");
    while (!Sleep()) tick_();
  }
  bool Sleep() {
    const auto deadline = std::chrono::steady_clock::now() + period_;
    MutexLock lock(mu_);
    while (!stop_ && wake_.WaitUntil(mu_, deadline)) {
    }
    return stop_;
  }

  const std::chrono::milliseconds period_;
  const std::function<void()> tick_;
  Mutex mu_;
  CondVar wake_;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace baleen::worker
