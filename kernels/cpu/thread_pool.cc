#include "kernels/cpu/thread_pool.h"

#include <pthread.h>

#include <string>

#include "common/check.h"

namespace baleen::kernels::cpu {
namespace {

// About 40 us of work on one core. Waking a worker takes 10 to 50 us, and where other processes
// want the cores too, a worker that is late costs more than it gives.
constexpr int64_t kMinMultiplyAdds = 1'500'000;
// A pause takes 20 to 60 ns: at most some 10 us of spinning before a thread sleeps.
constexpr int kSpins = 200;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  BALEEN_CHECK(threads >= 1);
  for (int worker = 1; worker < threads; ++worker) {
    workers_.emplace_back([this, worker] { WorkerMain(worker); });
    pthread_setname_np(workers_.back().native_handle(), ("op-" + std::to_string(worker)).c_str());
  }
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  {
    MutexLock lock(mu_);
    start_.NotifyAll();
  }
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::ParallelFor(int64_t items, int64_t multiply_adds, Body body) {
  if (items <= 1 || workers_.empty() || multiply_adds < kMinMultiplyAdds) {
    for (int64_t i = 0; i < items; ++i) body(0, i);
    return;
  }
  {
    MutexLock lock(mu_);
    body_ = &body;
    items_ = items;
    next_.store(0, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    if (sleeping_ > 0) start_.NotifyAll();
  }
  for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < items;) body(0, i);

  MutexLock lock(mu_);
  body_ = nullptr;
  for (int spin = 0; active_.load(std::memory_order_relaxed) > 0 && spin < kSpins; ++spin) {
    mu_.Unlock();
    Pause();
    mu_.Lock();
  }
  while (active_.load(std::memory_order_relaxed) > 0) finished_.Wait(mu_);
}

// False when the pool stops.
bool ThreadPool::WaitForLoop(uint64_t* seen) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (stop_ || generation_.load(std::memory_order_acquire) != *seen) break;
    Pause();
  }
  MutexLock lock(mu_);
  ++sleeping_;
  while (!stop_ && generation_.load(std::memory_order_relaxed) == *seen) start_.Wait(mu_);
  --sleeping_;
  *seen = generation_.load(std::memory_order_relaxed);
  return !stop_;
}

void ThreadPool::WorkerMain(int worker) {
  uint64_t seen = 0;
  while (WaitForLoop(&seen)) {
    const Body* body;
    int64_t items;
    {
      MutexLock lock(mu_);
      if (body_ == nullptr) continue;  // came too late: the caller did it alone
      body = body_;
      items = items_;
      ++active_;
    }
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < items;)
      (*body)(worker, i);
    MutexLock lock(mu_);
    if (--active_ == 0) finished_.NotifyOne();
  }
}

}  // namespace baleen::kernels::cpu
