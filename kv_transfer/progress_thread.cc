#include "kv_transfer/progress_thread.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "common/check.h"

namespace baleen::kv_transfer {
namespace {

constexpr Duration kWaitSpin = std::chrono::microseconds(500);

void Watch(int epoll_fd, int fd) {
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.fd = fd;
  BALEEN_CHECK(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0);
}

}  // namespace

ProgressThread::ProgressThread(const std::string& name, Poller poller, Duration spin)
    : poller_(std::move(poller)), spin_(spin) {
  epoll_fd_ = epoll_create1(EPOLL_CLOEXEC);
  event_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  BALEEN_CHECK(epoll_fd_ >= 0 && event_fd_ >= 0);
  Watch(epoll_fd_, event_fd_);
  if (poller_.fd >= 0) Watch(epoll_fd_, poller_.fd);
  thread_ = std::thread([this, name] {
    thread_id_ = std::this_thread::get_id();
    pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
    Loop();
  });
}

ProgressThread::~ProgressThread() {
  Post([this] { stop_ = true; });
  thread_.join();
  close(event_fd_);
  close(epoll_fd_);
}

void ProgressThread::Post(Task task) {
  {
    MutexLock lock(mu_);
    tasks_.push_back(std::move(task));
  }
  // Sleep() sets asleep_ before it looks at tasks_, so either it sees the task or we see it asleep.
  if (asleep_.exchange(false)) {
    const uint64_t one = 1;
    BALEEN_CHECK(write(event_fd_, &one, sizeof(one)) == sizeof(one) || errno == EAGAIN);
  }
}

void ProgressThread::Every(Duration period, Tick tick) {
  Post([this, period, tick = std::move(tick)]() mutable {
    const TimePoint first = std::chrono::steady_clock::now() + period;
    timers_.push_back({.period = period, .next = first, .tick = std::move(tick)});
  });
}

void ProgressThread::Loop() {
  TimePoint last_work = std::chrono::steady_clock::now();
  while (!stop_) {
    bool worked = RunTasks();
    if (poller_.poll) worked |= poller_.poll();
    const TimePoint now = std::chrono::steady_clock::now();
    worked |= RunTimers(now);
    if (worked) {
      last_work = now;
    } else if (poller_.waiting && now - last_work < kWaitSpin && poller_.waiting()) {
      std::this_thread::yield();
    } else if (now - last_work >= spin_) {
      Sleep(now);
    }
  }
}

bool ProgressThread::RunTasks() {
  std::vector<Task> tasks;
  {
    MutexLock lock(mu_);
    tasks.swap(tasks_);
  }
  for (Task& task : tasks) task();
  return !tasks.empty();
}

bool ProgressThread::RunTimers(TimePoint now) {
  bool worked = false;
  for (size_t i = 0; i < timers_.size();) {  // a tick may add timers
    if (timers_[i].next > now) {
      ++i;
      continue;
    }
    worked = true;
    timers_[i].next = now + timers_[i].period;
    const Tick tick = timers_[i].tick;
    if (tick()) {
      ++i;
    } else {
      timers_.erase(timers_.begin() + ptrdiff_t(i));
    }
  }
  return worked;
}

bool ProgressThread::HasTasks() {
  MutexLock lock(mu_);
  return !tasks_.empty();
}

void ProgressThread::Sleep(TimePoint now) {
  if (poller_.arm && !poller_.arm()) return;
  asleep_ = true;
  if (HasTasks()) {
    asleep_ = false;
    return;
  }
  int timeout_ms = -1;
  for (const Timer& timer : timers_) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(timer.next - now).count();
    const int ms = int(std::clamp<int64_t>(left, 0, 60'000));
    timeout_ms = timeout_ms < 0 ? ms : std::min(timeout_ms, ms);
  }
  if (poller_.waiting && poller_.waiting()) timeout_ms = std::min(unsigned(timeout_ms), 1u);
  epoll_event events[2];
  epoll_wait(epoll_fd_, events, 2, timeout_ms);
  asleep_ = false;
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t n = read(event_fd_, &count, sizeof(count));
}

}  // namespace baleen::kv_transfer
