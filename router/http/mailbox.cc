#include "router/http/mailbox.h"

#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace baleen::router {

namespace asio = boost::asio;

Mailbox::Mailbox(const asio::any_io_executor& executor)
    : changed_(executor, asio::steady_timer::time_point::max()) {}

void Mailbox::Post(Event event) {
  {
    MutexLock lock(mu_);
    events_.push_back(std::move(event));
    if (std::exchange(notified_, true)) return;
  }
  asio::post(changed_.get_executor(), [self = shared_from_this()] { self->changed_.cancel(); });
}

asio::awaitable<void> Mailbox::Wait() {
  while (!std::exchange(woken_, false)) {
    {
      MutexLock lock(mu_);
      if (!events_.empty()) co_return;
    }
    boost::system::error_code cancelled;
    co_await changed_.async_wait(asio::redirect_error(asio::use_awaitable, cancelled));
  }
}

std::deque<Mailbox::Event> Mailbox::Take() {
  MutexLock lock(mu_);
  notified_ = false;
  return std::exchange(events_, {});
}

void Mailbox::Wake() {
  woken_ = true;
  changed_.cancel();
}

}  // namespace baleen::router
