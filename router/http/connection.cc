#include "router/http/connection.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/error.hpp>

#include "router/http/deadline.h"

namespace baleen::router {

namespace asio = boost::asio;
namespace http = boost::beast::http;

namespace {

constexpr size_t kReadPieceBytes = 64 << 10;
constexpr size_t kMaxReadAheadBytes = 1 << 20;  // of pipelined requests
constexpr size_t kMaxLingerBytes = size_t{256} << 20;

auto Token(Connection::Error& error) { return asio::redirect_error(asio::use_awaitable, error); }

}  // namespace

Connection::Connection(Socket socket, const ConnectionLimits& limits)
    : executor_(socket.get_executor()),
      socket_(std::move(socket)),
      limits_(limits),
      changed_(executor_, asio::steady_timer::time_point::max()) {
  Error ignored;
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  socket_.set_option(asio::socket_base::send_buffer_size(limits_.send_buffer_bytes), ignored);
  deadline_ = std::make_shared<Deadline>(executor_, [this] { Close(); });
  body_deadline_ = std::make_shared<Deadline>(executor_, [this] {
    body_late_ = true;
    Error error;
    socket_.cancel(error);
  });
}

Connection::~Connection() {
  deadline_->Stop();
  body_deadline_->Stop();
}

void Connection::Close() {
  Error ignored;
  socket_.close(ignored);
}

void Connection::CloseIfIdle() {
  if (idle_) Close();
}

asio::awaitable<Connection::Error> Connection::WaitForBytes() {
  Error error;
  idle_ = true;
  if (buffer_.size() == 0) {
    deadline_->Set(limits_.idle_timeout);
    const size_t n =
        co_await socket_.async_read_some(buffer_.prepare(kReadPieceBytes), Token(error));
    buffer_.commit(n);
  }
  idle_ = false;
  co_return error;
}

asio::awaitable<Connection::Error> Connection::Read(Request* request) {
  Error error = co_await WaitForBytes();
  if (error) co_return error;
  Parser parser;
  parser.body_limit(limits_.max_body_bytes);
  parser.header_limit(static_cast<uint32_t>(limits_.max_header_bytes));
  deadline_->Set(limits_.read_timeout);
  co_await http::async_read_header(socket_, buffer_, parser, Token(error));
  if (!error && boost::beast::iequals(parser.get()[http::field::expect], "100-continue"))
    error = co_await Write("HTTP/1.1 100 Continue\r\n\r\n");
  if (!error) error = co_await ReadBody(parser);
  deadline_->Clear();
  *request = parser.release();
  co_return error;
}

asio::awaitable<Connection::Error> Connection::ReadBody(Parser& parser) {
  Error error;
  if (!parser.is_done()) body_deadline_->Set(limits_.body_timeout);
  while (!error && !parser.is_done() && !body_late_) {
    deadline_->Set(limits_.read_timeout);
    co_await http::async_read_some(socket_, buffer_, parser, Token(error));
  }
  body_deadline_->Clear();
  // Also when the last piece came with it: the deadline fires once in a connection.
  if (body_late_) error = boost::beast::error::timeout;
  co_return error;
}

asio::awaitable<Connection::Error> Connection::Write(std::string data) {
  Error error;
  size_t sent = 0;
  while (sent < data.size() && !error) {
    deadline_->Set(limits_.write_timeout);
    sent += co_await socket_.async_write_some(asio::buffer(data) + sent, Token(error));
  }
  deadline_->Clear();
  co_return error;
}

void Connection::Gone() {
  gone_ = true;
  Close();  // ends a write that waits for the client
  changed_.cancel();
  if (on_gone_) std::exchange(on_gone_, nullptr)();
}

void Connection::StartWatching(std::function<void()> on_gone) {
  on_gone_ = std::move(on_gone);
  watching_ = true;
  asio::co_spawn(
      executor_, [self = shared_from_this()] { return self->Watch(); }, asio::detached);
}

asio::awaitable<void> Connection::Watch() {
  Error error;
  while (on_gone_ && !error && buffer_.size() < kMaxReadAheadBytes) {
    const size_t n =
        co_await socket_.async_read_some(buffer_.prepare(kReadPieceBytes), Token(error));
    buffer_.commit(n);
  }
  watching_ = false;
  changed_.cancel();
  if (error && on_gone_) Gone();  // StopWatching takes on_gone_ away before it cancels the read
}

asio::awaitable<void> Connection::StopWatching() {
  on_gone_ = nullptr;
  Error error;
  if (watching_) socket_.cancel(error);
  while (watching_ || writing_) co_await changed_.async_wait(Token(error));
}

bool Connection::Send(std::string data) {
  if (gone_) return false;
  // What was there before counts: a single large piece is no sign of a slow reader.
  if (outbox_.size() > limits_.write_buffer_bytes) {
    was_slow_ = true;
    // A reset, so that the kernel does not keep the unsent rest for a client that does not read.
    Error ignored;
    socket_.set_option(asio::socket_base::linger(true, 0), ignored);
    Gone();
    return false;
  }
  outbox_ += data;
  if (!std::exchange(writing_, true))
    asio::co_spawn(
        executor_, [self = shared_from_this()] { return self->DrainOutbox(); }, asio::detached);
  return data.size() > limits_.write_buffer_bytes;
}

asio::awaitable<void> Connection::DrainOutbox() {
  Error error;
  while (!outbox_.empty() && !gone_ && !error)
    error = co_await Write(std::exchange(outbox_, std::string()));
  writing_ = false;
  changed_.cancel();
  if (error && !gone_) Gone();
}

asio::awaitable<void> Connection::Flush() {
  Error ignored;
  while (writing_ && !gone_) co_await changed_.async_wait(Token(ignored));
}

asio::awaitable<void> Connection::LingeringClose() {
  Error error;
  socket_.shutdown(Socket::shutdown_send, error);
  deadline_->Set(limits_.linger_timeout);
  buffer_.clear();
  for (size_t total = 0; !error && total < kMaxLingerBytes;)
    total += co_await socket_.async_read_some(buffer_.prepare(kReadPieceBytes), Token(error));
  Close();
}

}  // namespace baleen::router
