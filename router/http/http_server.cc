#include "router/http/http_server.h"

#include <pthread.h>

#include <atomic>
#include <list>
#include <thread>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/error.hpp>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/mutex.h"
#include "router/api/api_error.h"
#include "router/http/routes.h"

namespace baleen::router {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using tcp = asio::ip::tcp;
using Error = boost::system::error_code;

constexpr int kMaxTurnedAway = 64;

class HttpServer::Core {
 public:
  Core(HttpOptions options, RouterContext& context)
      : options_(std::move(options)),
        context_(context),
        io_(options_.threads),
        acceptor_(asio::make_strand(io_)),
        ticker_(asio::make_strand(io_)) {}

  ~Core() { Stop(); }

  void Stop() {
    io_.stop();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  absl::Status Listen();
  int port() const { return port_; }

  void Every(Duration period, std::function<void()> tick) {
    asio::co_spawn(ticker_.get_executor(), Tick(period, std::move(tick)), asio::detached);
  }

  void Start() {
    asio::co_spawn(acceptor_.get_executor(), Accept(), asio::detached);
    for (int i = 0; i < options_.threads; ++i)
      threads_.emplace_back([this] {
        pthread_setname_np(pthread_self(), "http");
        io_.run();
      });
  }

  void StopListening() {
    stopping_ = true;
    asio::post(acceptor_.get_executor(), [this] {
      Error ignored;
      acceptor_.close(ignored);
    });
    MutexLock lock(mu_);
    for (const auto& weak : connections_)
      if (auto connection = weak.lock())
        asio::post(connection->executor(), [connection] { connection->CloseIfIdle(); });
  }

  int open_connections() const {
    MutexLock lock(mu_);
    return static_cast<int>(connections_.size());
  }

 private:
  using Connections = std::list<std::weak_ptr<Connection>>;

  asio::awaitable<void> Tick(Duration period, std::function<void()> tick) {
    Error error;
    while (!error) {
      ticker_.expires_after(period);
      co_await ticker_.async_wait(asio::redirect_error(asio::use_awaitable, error));
      tick();
    }
  }
  asio::awaitable<void> Accept();
  void Admit(tcp::socket socket);
  asio::awaitable<void> Serve(std::shared_ptr<Connection> connection, Connections::iterator place);
  asio::awaitable<void> TurnAway(std::shared_ptr<Connection> connection);
  asio::awaitable<bool> ServeOne(Connection& connection);
  asio::awaitable<void> Refuse(Connection& connection, Connection::Request request, Error error);
  // Answers with `status` and closes.
  asio::awaitable<void> EndWith(Connection& connection, Connection::Request request,
                                absl::Status status);

  const HttpOptions options_;
  RouterContext& context_;
  std::atomic<bool> stopping_{false};
  std::atomic<int> turned_away_{0};  // being told so
  int port_ = 0;
  mutable Mutex mu_;
  Connections connections_ ABSL_GUARDED_BY(mu_);
  asio::io_context io_;
  tcp::acceptor acceptor_;
  asio::steady_timer ticker_;
  std::vector<std::thread> threads_;
};

absl::Status HttpServer::Core::Listen() {
  const auto failed = [&](const Error& error) {
    return absl::UnavailableError(absl::StrCat("http_port: cannot listen on ", options_.host, ":",
                                               options_.port, ": ", error.message()));
  };
  Error error;
  const auto address = asio::ip::make_address(options_.host, error);
  if (error) return failed(error);
  const tcp::endpoint endpoint(address, static_cast<uint16_t>(options_.port));
  acceptor_.open(endpoint.protocol(), error);
  if (!error) acceptor_.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) acceptor_.bind(endpoint, error);
  if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
  if (error) return failed(error);
  port_ = acceptor_.local_endpoint().port();
  return absl::OkStatus();
}

asio::awaitable<void> HttpServer::Core::Accept() {
  while (!stopping_) {
    Error error;
    tcp::socket socket = co_await acceptor_.async_accept(
        asio::make_strand(io_), asio::redirect_error(asio::use_awaitable, error));
    if (stopping_) co_return;
    if (error) {
      // Out of descriptors, most likely: wait until some are given back.
      spdlog::warn("accept: {}", error.message());
      asio::steady_timer pause(acceptor_.get_executor(), std::chrono::milliseconds(100));
      co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, error));
      continue;
    }
    Admit(std::move(socket));
  }
}

void HttpServer::Core::Admit(tcp::socket socket) {
  auto connection = std::make_shared<Connection>(std::move(socket), options_.limits);
  const auto executor = connection->executor();
  if (open_connections() < options_.max_connections) {
    Connections::iterator place;
    {
      MutexLock lock(mu_);
      place = connections_.insert(connections_.end(), connection);
    }
    context_.metrics.connections.Increment();
    asio::co_spawn(executor, Serve(std::move(connection), place), asio::detached);
    return;
  }
  context_.metrics.CountRejection("http_connections");
  // Telling takes a while, and a descriptor: what comes faster than that is closed without a word.
  if (turned_away_ >= kMaxTurnedAway) return;
  ++turned_away_;
  asio::co_spawn(executor, TurnAway(std::move(connection)), asio::detached);
}

asio::awaitable<void> HttpServer::Core::TurnAway(std::shared_ptr<Connection> connection) {
  co_await EndWith(*connection, Connection::Request(),
                   absl::UnavailableError(absl::StrCat(
                       "too many connections: ", options_.max_connections, " are open")));
  --turned_away_;
}

asio::awaitable<void> HttpServer::Core::Serve(std::shared_ptr<Connection> connection,
                                              Connections::iterator place) {
  while (!stopping_ && co_await ServeOne(*connection)) {
  }
  connection->Close();
  context_.metrics.connections.Decrement();
  MutexLock lock(mu_);
  connections_.erase(place);
}

// One request; whether the connection may carry another.
asio::awaitable<bool> HttpServer::Core::ServeOne(Connection& connection) {
  Connection::Request request;
  const Error error = co_await connection.Read(&request);
  if (error) {
    co_await Refuse(connection, std::move(request), error);
    co_return false;
  }
  Exchange exchange(context_, connection, std::move(request));
  co_await Route(exchange);
  context_.metrics.CountRequest(exchange.endpoint, exchange.status());
  co_return exchange.keep_alive() && !connection.gone();
}

// A request that cannot be read: says why, if there is anybody to tell.
asio::awaitable<void> HttpServer::Core::Refuse(Connection& connection, Connection::Request request,
                                               Error error) {
  absl::Status status;
  if (error == http::error::body_limit)
    status =
        WithHttpStatus(absl::InvalidArgumentError(absl::StrCat(
                           "the body is larger than ", options_.limits.max_body_bytes, " bytes")),
                       413);
  else if (error == boost::beast::error::timeout)
    status = WithHttpStatus(
        absl::DeadlineExceededError(absl::StrCat("the body took longer than ",
                                                 options_.limits.body_timeout.count(), " ms")),
        408);
  else if (error == http::error::header_limit)
    status = WithHttpStatus(absl::InvalidArgumentError("the header is too large"), 431);
  else if (error.category() == http::make_error_code(http::error::bad_method).category() &&
           error != http::error::end_of_stream && error != http::error::partial_message)
    status = absl::InvalidArgumentError(absl::StrCat("not HTTP: ", error.message()));
  else
    co_return;  // closed, timed out
  co_await EndWith(connection, std::move(request), std::move(status));
}

asio::awaitable<void> HttpServer::Core::EndWith(Connection& connection, Connection::Request request,
                                                absl::Status status) {
  Exchange exchange(context_, connection, std::move(request));
  exchange.set_keep_alive(false);
  exchange.endpoint = "unreadable";
  co_await exchange.ReplyError(std::move(status));
  context_.metrics.CountRequest(exchange.endpoint, exchange.status());
  co_await connection.LingeringClose();
}

HttpServer::HttpServer(std::unique_ptr<Core> core) : core_(std::move(core)) {}
HttpServer::~HttpServer() = default;

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Create(HttpOptions options,
                                                               RouterContext& context) {
  auto core = std::make_unique<Core>(std::move(options), context);
  if (absl::Status status = core->Listen(); !status.ok()) return status;
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(core)));
}

int HttpServer::port() const { return core_->port(); }
void HttpServer::Every(Duration period, std::function<void()> tick) {
  core_->Every(period, std::move(tick));
}
void HttpServer::Start() { core_->Start(); }
void HttpServer::StopListening() { core_->StopListening(); }
void HttpServer::Stop() { core_->Stop(); }
int HttpServer::open_connections() const { return core_->open_connections(); }

}  // namespace baleen::router
