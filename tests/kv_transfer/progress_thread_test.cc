#include "kv_transfer/progress_thread.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <future>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace baleen::kv_transfer {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(ProgressThread, RunsTasksInOrderOnItsThread) {
  std::vector<int> seen;
  bool on_thread = true;
  {
    ProgressThread thread("test", {}, microseconds(0));
    for (int i = 0; i < 1000; ++i)
      thread.Post([&, i] {
        seen.push_back(i);
        on_thread &= thread.OnThread();
      });
    EXPECT_FALSE(thread.OnThread());
  }  // what was posted runs before the end
  ASSERT_EQ(seen.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(seen[size_t(i)], i);
  EXPECT_TRUE(on_thread);
}

TEST(ProgressThread, NoPostOfManyThreadsIsLostWhileItFallsAsleep) {
  ProgressThread thread("test", {}, microseconds(5));
  std::vector<std::thread> posters;
  for (int t = 0; t < 4; ++t)
    posters.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        std::promise<void> ran;
        thread.Post([&] { ran.set_value(); });
        ASSERT_EQ(ran.get_future().wait_for(seconds(20)), std::future_status::ready);
      }
    });
  for (std::thread& poster : posters) poster.join();
}

TEST(ProgressThread, TicksUntilTheTickSaysNo) {
  std::promise<int> done;
  int ticks = 0;
  ProgressThread thread("test", {}, microseconds(0));
  thread.Every(milliseconds(1), [&] {
    if (++ticks < 5) return true;
    done.set_value(ticks);
    return false;
  });
  EXPECT_EQ(done.get_future().get(), 5);
}

TEST(ProgressThread, WakesUpForThePollersDescriptor) {
  const int fd = eventfd(0, EFD_NONBLOCK);
  std::promise<void> polled;
  {
    ProgressThread thread("test",
                          {.poll =
                               [&] {
                                 uint64_t count = 0;
                                 if (read(fd, &count, sizeof(count)) != sizeof(count)) return false;
                                 polled.set_value();
                                 return true;
                               },
                           .arm = [] { return true; },
                           .fd = fd},
                          microseconds(0));
    const uint64_t one = 1;
    ASSERT_EQ(write(fd, &one, sizeof(one)), ssize_t(sizeof(one)));
    EXPECT_EQ(polled.get_future().wait_for(seconds(20)), std::future_status::ready);
  }
  close(fd);
}

TEST(ProgressThread, DoesNotSleepWhileSomethingIsPending) {
  std::atomic<int> polls{0};
  ProgressThread thread("test",
                        {.poll =
                             [&] {
                               ++polls;
                               return false;
                             },
                         .arm = [&] { return polls > 1000; }},
                        microseconds(0));
  const TimePoint deadline = std::chrono::steady_clock::now() + seconds(20);
  while (polls <= 1000 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  EXPECT_GT(polls, 1000);
}

TEST(ProgressThread, LooksAgainSoonWhileWaitingForWhatRaisesNoEvent) {
  std::atomic<int> polls{0};
  ProgressThread thread("test",
                        {.poll =
                             [&] {
                               ++polls;
                               return false;
                             },
                         .arm = [] { return true; },
                         .waiting = [] { return true; }},
                        microseconds(0));
  const TimePoint deadline = std::chrono::steady_clock::now() + seconds(20);
  while (polls < 20 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  EXPECT_GE(polls, 20);
}

}  // namespace
}  // namespace baleen::kv_transfer
