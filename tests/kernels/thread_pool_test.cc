#include "kernels/cpu/thread_pool.h"

#include <atomic>
#include <chrono>
#include <set>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace baleen::kernels::cpu {
namespace {

constexpr int64_t kLarge = int64_t{1} << 40;

TEST(ThreadPool, RunsEveryItemOnceForManyLoops) {
  for (int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (int loop = 0; loop < 2000; ++loop) {
      const int items = loop % 37;
      std::vector<int> counts(items, 0);
      pool.ParallelFor(items, kLarge, [&](int worker, int64_t i) {
        EXPECT_LT(worker, threads);
        ++counts[i];
      });
      for (int i = 0; i < items; ++i) ASSERT_EQ(counts[i], 1) << threads << " " << loop;
    }
  }
}

TEST(ThreadPool, KeepsSmallLoopsOnTheCaller) {
  ThreadPool pool(4);
  pool.ParallelFor(100, 1000, [&](int worker, int64_t) { EXPECT_EQ(worker, 0); });
}

// Each of two items waits for the other: only possible when two threads run them.
TEST(ThreadPool, SharesALargeLoopAlsoAfterSleeping) {
  ThreadPool pool(2);
  for (int loop = 0; loop < 3; ++loop) {
    std::atomic<int> arrived{0};
    pool.ParallelFor(2, kLarge, [&](int, int64_t) {
      ++arrived;
      const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
      while (arrived < 2 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    });
    EXPECT_EQ(arrived, 2);
  }
}

TEST(ThreadPool, StopsWithSleepingWorkers) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(3);
}

}  // namespace
}  // namespace baleen::kernels::cpu
