#pragma once

#include <deque>
#include <memory>
#include <utility>
#include <variant>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

#include "common/mutex.h"
#include "router/generation_events.h"

namespace baleen::router {

// Carries what workers produce for one client request from their threads to the coroutine that
// serves the client.
//
// Threads: Post from any; the rest on the strand of `executor`.
class Mailbox : public std::enable_shared_from_this<Mailbox> {
 public:
  struct Event {
    int choice = 0;
    std::variant<TokenStep, FinishInfo, absl::Status> what;
  };
  explicit Mailbox(const boost::asio::any_io_executor& executor);

  void Post(Event event) ABSL_LOCKS_EXCLUDED(mu_);
  // Returns when there are events, or after Wake.
  boost::asio::awaitable<void> Wait();
  std::deque<Event> Take() ABSL_LOCKS_EXCLUDED(mu_);
  void Wake();

 private:
  boost::asio::steady_timer changed_;
  bool woken_ = false;
  Mutex mu_;
  std::deque<Event> events_ ABSL_GUARDED_BY(mu_);
  bool notified_ ABSL_GUARDED_BY(mu_) = false;  // a wake-up is on its way
};

// The sink of one choice.
class MailboxSink final : public GenerationSink {
 public:
  MailboxSink(std::shared_ptr<Mailbox> mailbox, int choice)
      : mailbox_(std::move(mailbox)), choice_(choice) {}
  void OnTokens(TokenStep step) override { mailbox_->Post({choice_, std::move(step)}); }
  void OnFinished(const FinishInfo& info) override { mailbox_->Post({choice_, info}); }
  void OnError(absl::Status status) override { mailbox_->Post({choice_, std::move(status)}); }

 private:
  const std::shared_ptr<Mailbox> mailbox_;
  const int choice_;
};

}  // namespace baleen::router
