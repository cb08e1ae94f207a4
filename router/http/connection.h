#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>  // Boost 1.74's awaitable.hpp forgets it

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>

namespace baleen::router {

class Deadline;

struct ConnectionLimits {
  size_t max_body_bytes = size_t{32} << 20;
  size_t max_header_bytes = size_t{64} << 10;
  size_t write_buffer_bytes = size_t{1} << 20;      // unsent bytes of one stream; then it is cut
  int send_buffer_bytes = 256 << 10;                // the kernel's
  std::chrono::milliseconds idle_timeout{120'000};  // between requests
  std::chrono::milliseconds read_timeout{30'000};   // of a header, and between pieces of a body
  std::chrono::milliseconds body_timeout{60'000};   // of a whole body
  std::chrono::milliseconds write_timeout{30'000};  // without any progress
  std::chrono::milliseconds linger_timeout{5'000};  // reading on after an early error reply
};

// One client's socket: reads requests, writes replies and streams, and notices when the client has
// gone. Every wait has a timeout; when one runs out the socket is closed, which ends the operation.
//
// Threads: all on the strand of its socket. Owner: the session, by shared_ptr (its coroutines hold
// it too).
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  using Socket = boost::asio::ip::tcp::socket;
  using Request = boost::beast::http::request<boost::beast::http::string_body>;
  using Error = boost::system::error_code;

  Connection(Socket socket, const ConnectionLimits& limits);
  ~Connection();

  // The next request. beast::http::error::body_limit and header_limit: too large, the rest unread;
  // beast::error::timeout: the body did not come in time, and an answer may still be sent.
  boost::asio::awaitable<Error> Read(Request* request);

  // Writes all of `data`; returns when the kernel has taken it.
  boost::asio::awaitable<Error> Write(std::string data);

  // While a request is worked on: reads ahead, so that a client that closes (or half-closes: the
  // two cannot be told apart) is noticed at once. `on_gone` runs on the strand, at most once, also
  // when the client is cut for reading too slowly. Pipelined requests stay in the buffer.
  void StartWatching(std::function<void()> on_gone);
  boost::asio::awaitable<void> StopWatching();
  bool gone() const { return gone_; }

  // Streaming: appends to what a writer of its own sends. A client that has let more than
  // `write_buffer_bytes` pile up by then is cut off; `data` itself may be larger. Then it returns
  // true, and Flush must come before the next Send, which would take it for piled up. Only between
  // StartWatching and StopWatching.
  bool Send(std::string data);
  // Waits until everything is sent, or the client is gone.
  boost::asio::awaitable<void> Flush();
  bool was_slow() const { return was_slow_; }

  // After an error reply to a request that was not read to its end: lets the client finish sending
  // for a while, so that it sees the reply and not a reset.
  boost::asio::awaitable<void> LingeringClose();
  void Close();
  // Closes if the connection is between two requests.
  void CloseIfIdle();

  const boost::asio::any_io_executor& executor() const { return executor_; }

 private:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;

  boost::asio::awaitable<Error> WaitForBytes();
  boost::asio::awaitable<Error> ReadBody(Parser& parser);
  boost::asio::awaitable<void> Watch();
  boost::asio::awaitable<void> DrainOutbox();
  void Gone();

  const boost::asio::any_io_executor executor_;
  Socket socket_;
  const ConnectionLimits limits_;
  boost::beast::flat_buffer buffer_;
  std::shared_ptr<Deadline> deadline_;       // of one wait: closes the socket
  std::shared_ptr<Deadline> body_deadline_;  // ends the reading only
  boost::asio::steady_timer changed_;        // a condition variable: cancelled to wake its waiter
  std::function<void()> on_gone_;
  std::string outbox_;
  bool idle_ = true;
  bool gone_ = false;
  bool was_slow_ = false;
  bool watching_ = false;
  bool writing_ = false;
  bool body_late_ = false;
};

}  // namespace baleen::router
