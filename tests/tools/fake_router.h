#pragma once

#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/write.hpp"
#include "boost/beast/core.hpp"
#include "boost/beast/http.hpp"
#include "common/mutex.h"

namespace baleen::testing {

// An HTTP server on a port of its own that answers the n-th request with the n-th of `replies`, raw
// bytes, and closes the connection. Remembers what it was asked.
class FakeRouter {
 public:
  explicit FakeRouter(std::vector<std::string> replies)
      : replies_(std::move(replies)),
        acceptor_(context_, {boost::asio::ip::make_address("127.0.0.1"), 0}),
        thread_([this] { Serve(); }) {}
  ~FakeRouter() { thread_.join(); }

  std::string url() const {
    return absl::StrCat("http://127.0.0.1:", acceptor_.local_endpoint().port());
  }
  // "METHOD PATH BODY" of each request so far.
  std::vector<std::string> requests() {
    MutexLock lock(mu_);
    return requests_;
  }

  static std::string Reply(int status, const std::string& body) {
    return absl::StrCat("HTTP/1.1 ", status, " X\r\nContent-Length: ", body.size(), "\r\n\r\n",
                        body);
  }
  // A chunked event stream, one chunk a string of `pieces`.
  static std::string Stream(const std::vector<std::string>& pieces, bool whole = true) {
    std::string reply =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (const std::string& piece : pieces)
      absl::StrAppend(&reply, absl::Hex(piece.size()), "\r\n", piece, "\r\n");
    return whole ? reply + "0\r\n\r\n" : reply;
  }

 private:
  void Serve() {
    namespace http = boost::beast::http;
    for (const std::string& reply : replies_) {
      boost::asio::ip::tcp::socket socket(context_);
      acceptor_.accept(socket);
      boost::beast::flat_buffer buffer;
      http::request<http::string_body> request;
      boost::beast::error_code error;
      http::read(socket, buffer, request, error);
      {
        MutexLock lock(mu_);
        requests_.push_back(absl::StrCat(std::string(request.method_string()), " ",
                                         std::string(request.target()), " ", request.body()));
      }
      boost::asio::write(socket, boost::asio::buffer(reply), error);
    }
  }

  const std::vector<std::string> replies_;
  boost::asio::io_context context_;
  boost::asio::ip::tcp::acceptor acceptor_;
  Mutex mu_;
  std::vector<std::string> requests_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;  // last: uses everything above
};

}  // namespace baleen::testing
