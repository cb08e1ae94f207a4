#include "router/http/connection.h"

#include <thread>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include "gmock/gmock.h"
#include "testing/fake_worker.h"
#include "testing/http_client.h"

namespace baleen::router {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using baleen::testing::FakeWorker;
using baleen::testing::HttpClient;
using std::chrono::milliseconds;

// One accepted connection on a thread of its own.
class ConnectionTest : public ::testing::Test {
 protected:
  ConnectionTest() : acceptor_(io_, tcp::endpoint(asio::ip::address_v4::loopback(), 0)) {}
  ~ConnectionTest() override {
    client_.reset();
    if (thread_.joinable()) thread_.join();
  }
  // Runs `serve` on the connection to a new client, until it returns.
  void Serve(std::function<asio::awaitable<void>(std::shared_ptr<Connection>)> serve,
             int client_receive_buffer = 0) {
    client_ =
        std::make_unique<HttpClient>(acceptor_.local_endpoint().port(), client_receive_buffer);
    auto connection = std::make_shared<Connection>(acceptor_.accept(io_), limits_);
    connection_ = connection;
    serve_ = std::move(serve);  // holds what the coroutine refers to
    asio::co_spawn(io_, serve_(std::move(connection)), asio::detached);
    thread_ = std::thread([this] {
      io_.run();
      ended_ = true;
    });
  }
  bool Ended() {
    return FakeWorker::Eventually([&] { return ended_.load(); });
  }

  std::function<asio::awaitable<void>(std::shared_ptr<Connection>)> serve_;
  asio::io_context io_;
  tcp::acceptor acceptor_;
  ConnectionLimits limits_;
  std::weak_ptr<Connection> connection_;
  std::unique_ptr<HttpClient> client_;
  std::thread thread_;
  std::atomic<bool> ended_{false};
};

TEST_F(ConnectionTest, AClientThatIsSilentIsClosedAfterTheIdleTime) {
  limits_.idle_timeout = milliseconds(30);
  Connection::Error error;
  Serve([&](std::shared_ptr<Connection> c) -> asio::awaitable<void> {
    Connection::Request request;
    error = co_await c->Read(&request);
  });
  EXPECT_TRUE(Ended());
  EXPECT_TRUE(error);
  EXPECT_TRUE(client_->AtEnd());
}

TEST_F(ConnectionTest, ABodyThatStopsComingTimesOut) {
  limits_.read_timeout = milliseconds(30);
  Connection::Error error;
  Serve([&](std::shared_ptr<Connection> c) -> asio::awaitable<void> {
    Connection::Request request;
    error = co_await c->Read(&request);
  });
  client_->Send("POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc");
  EXPECT_TRUE(Ended());
  EXPECT_TRUE(error);
}

TEST_F(ConnectionTest, ABodyThatComesTooSlowlyTimesOutAndCanBeAnswered) {
  limits_.body_timeout = milliseconds(100);
  Connection::Error error;
  Serve([&](std::shared_ptr<Connection> c) -> asio::awaitable<void> {
    Connection::Request request;
    error = co_await c->Read(&request);
    co_await c->Write("too slow");
  });
  client_->Send("POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n");
  // Never silent for the read timeout, never done.
  while (!ended_ && client_->Send("x")) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_TRUE(Ended());
  EXPECT_EQ(error, boost::beast::error::timeout);
  EXPECT_EQ(client_->ReadUntil("slow"), "too slow");
}

TEST_F(ConnectionTest, ABodyThatEndsAsItsDeadlineFiresIsLateItself) {
  limits_.body_timeout = milliseconds(0);
  Connection::Error error;
  Serve([&](std::shared_ptr<Connection> c) -> asio::awaitable<void> {
    // One half is read with the header. The deadline fires while the other, which is there when it
    // is asked for, waits to be handed on.
    client_->Send("POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\nabc");
    asio::post(io_, [&] { client_->Send("def"); });
    Connection::Request request;
    error = co_await c->Read(&request);
  });
  EXPECT_TRUE(Ended());
  EXPECT_EQ(error, boost::beast::error::timeout);
}

TEST_F(ConnectionTest, ABodyInTimeLeavesNoDeadlineBehind) {
  limits_.body_timeout = milliseconds(50);
  limits_.idle_timeout = milliseconds(200);
  Connection::Error first, second;
  Serve([&](std::shared_ptr<Connection> c) -> asio::awaitable<void> {
    Connection::Request request;
    first = co_await c->Read(&request);
    second = co_await c->Read(&request);
  });
  client_->Send("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n");
  client_->Send("abc");
  EXPECT_TRUE(Ended());
  EXPECT_FALSE(first);
  EXPECT_TRUE(second);
  EXPECT_NE(second, boost::beast::error::timeout);
}

TEST_F(ConnectionTest, ALargeBodyIsRefusedByItsLengthOrByItsBytes) {
  limits_.max_body_bytes = 10;
  for (const char* text : {"POST / HTTP/1.1\r\nContent-Length: 11\r\n\r\n",
                           "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
                           "8\r\nabcdefgh\r\n8\r\nabcdefgh\r\n0\r\n\r\n"}) {
    Connection::Error error;
    Serve([&](std::shared_ptr<Connection> c) -> asio::awaitable<void> {
      Connection::Request request;
      error = co_await c->Read(&request);
    });
    client_->Send(text);
    EXPECT_TRUE(Ended());
    EXPECT_EQ(error, boost::beast::http::error::body_limit) << text;
    thread_.join();
    io_.restart();
    ended_ = false;
  }
}

TEST_F(ConnectionTest, AClientThatClosesWhileWatchedIsNoticedOnce) {
  std::atomic<int> gone{0};
  Serve([&](std::shared_ptr<Connection> c) -> asio::awaitable<void> {
    c->StartWatching([&] { ++gone; });
    co_return;
  });
  client_->Close();
  EXPECT_TRUE(Ended());
  EXPECT_EQ(gone, 1);
}

TEST_F(ConnectionTest, AHalfClosedClientIsGoneToo) {
  std::atomic<int> gone{0};
  Serve([&](std::shared_ptr<Connection> c) -> asio::awaitable<void> {
    c->StartWatching([&] { ++gone; });
    co_return;
  });
  client_->HalfClose();
  EXPECT_TRUE(Ended());
  EXPECT_EQ(gone, 1);
}

TEST_F(ConnectionTest, WhatIsReadAheadIsTheNextRequest) {
  std::string target;
  std::atomic<bool> gone{false};
  Serve([&](std::shared_ptr<Connection> c) -> asio::awaitable<void> {
    Connection::Request request;
    co_await c->Read(&request);
    c->StartWatching([&] { gone = true; });
    c->Send("1");
    co_await c->Flush();
    co_await c->StopWatching();
    co_await c->Read(&request);
    target = std::string(request.target());
  });
  client_->Send("GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(Ended());
  EXPECT_EQ(target, "/b");
  EXPECT_FALSE(gone);
}

TEST_F(ConnectionTest, AReaderThatLetsTooMuchPileUpIsReset) {
  limits_.write_buffer_bytes = 1000;
  limits_.send_buffer_bytes = 4096;
  bool slow = false;
  Serve(
      [&](std::shared_ptr<Connection> c) -> asio::awaitable<void> {
        c->StartWatching([] {});
        for (int i = 0; i < 1000 && !c->gone(); ++i) c->Send(std::string(500, 'x'));
        slow = c->was_slow();
        co_await c->StopWatching();
      },
      /*client_receive_buffer=*/4096);
  EXPECT_TRUE(Ended());
  EXPECT_TRUE(slow);
}

TEST_F(ConnectionTest, APieceOverTheLimitReachesAReaderThatReads) {
  limits_.write_buffer_bytes = 1000;
  bool slow = true, flush_first = false, flush_last = true;
  Serve([&](std::shared_ptr<Connection> c) -> asio::awaitable<void> {
    c->StartWatching([] {});
    c->Send("begin");
    co_await c->Flush();
    for (int i = 0; i < 3; ++i) {
      flush_first = c->Send(std::string(100'000, 'x'));
      if (flush_first) co_await c->Flush();
    }
    flush_last = c->Send("end");
    co_await c->Flush();
    slow = c->was_slow();
    co_await c->StopWatching();
  });
  EXPECT_EQ(client_->ReadUntil("end").size(), 300'008u);
  EXPECT_TRUE(Ended());
  EXPECT_TRUE(flush_first);
  EXPECT_FALSE(flush_last);
  EXPECT_FALSE(slow);
}

TEST_F(ConnectionTest, AWriteWithoutProgressTimesOut) {
  limits_.write_timeout = milliseconds(50);
  limits_.send_buffer_bytes = 4096;
  Connection::Error error;
  Serve(
      [&](std::shared_ptr<Connection> c) -> asio::awaitable<void> {
        error = co_await c->Write(std::string(8 << 20, 'x'));
      },
      /*client_receive_buffer=*/4096);
  EXPECT_TRUE(Ended());
  EXPECT_TRUE(error);
}

}  // namespace
}  // namespace baleen::router
