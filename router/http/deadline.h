#pragma once

#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <utility>

namespace baleen::router {

// Calls back when nobody moved the deadline in time. Moving it is cheap: the timer underneath runs
// only once per period.
//
// Threads: one strand, that of `executor`. `on_expiry` runs on it, at most once.
class Deadline : public std::enable_shared_from_this<Deadline> {
 public:
  using Clock = std::chrono::steady_clock;

  template <typename Executor>
  Deadline(const Executor& executor, std::function<void()> on_expiry)
      : timer_(executor), on_expiry_(std::move(on_expiry)) {}

  void Set(Clock::duration from_now) {
    at_ = Clock::now() + from_now;
    if (!waiting_ || at_ < timer_.expiry()) Wait();
  }
  void Clear() { at_ = Clock::time_point::max(); }
  // No callback after this.
  void Stop() {
    on_expiry_ = nullptr;
    timer_.cancel();
  }

 private:
  void Wait() {
    waiting_ = true;
    timer_.expires_at(at_);
    timer_.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
      if (!error) self->Fired();  // cancelled: another wait took over
    });
  }
  void Fired() {
    waiting_ = false;
    if (at_ == Clock::time_point::max() || on_expiry_ == nullptr) return;
    if (Clock::now() < at_) return Wait();
    std::exchange(on_expiry_, nullptr)();
  }

  boost::asio::steady_timer timer_;
  std::function<void()> on_expiry_;
  Clock::time_point at_ = Clock::time_point::max();
  bool waiting_ = false;
};

}  // namespace baleen::router
