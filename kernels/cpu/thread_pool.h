#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "common/mutex.h"

namespace baleen::kernels::cpu {

// Shares the items of one loop between the caller and `threads - 1` workers. Several processes may
// share few cores, so a worker spins only a few microseconds after a loop and then sleeps, and a
// loop never waits for a worker that has not begun on it.
//
// Threads: one caller at a time; the body runs on the caller and the workers at once.
class ThreadPool {
 public:
  // item is in [0, items), worker in [0, threads()): an index for scratch memory.
  using Body = absl::FunctionRef<void(int worker, int64_t item)>;

  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs body for every item and returns when all are done. `multiply_adds` is the size of the
  // whole loop: small loops stay on the caller, because waking a worker costs more.
  void ParallelFor(int64_t items, int64_t multiply_adds, Body body);

 private:
  void WorkerMain(int worker);
  bool WaitForLoop(uint64_t* seen);

  // Items are claimed from next_; a loop is over when it is closed and active_ is 0.
  std::atomic<int64_t> next_{0};
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> active_{0};  // written under mu_, read by the spinning caller
  Mutex mu_;
  CondVar start_;
  CondVar finished_;
  const Body* body_ ABSL_GUARDED_BY(mu_) = nullptr;  // nullptr: no open loop
  int64_t items_ ABSL_GUARDED_BY(mu_) = 0;
  int sleeping_ ABSL_GUARDED_BY(mu_) = 0;
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace baleen::kernels::cpu
