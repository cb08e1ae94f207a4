#pragma once

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "router/http/connection.h"
#include "router/router_context.h"

namespace baleen::router {

// One HTTP request and the means to answer it. Lives on its session's coroutine; handlers get a
// reference and must answer exactly once.
class Exchange {
 public:
  using Headers = std::vector<std::pair<std::string, std::string>>;

  Exchange(RouterContext& context, Connection& connection, Connection::Request request);

  RouterContext& context() { return context_; }
  Connection& connection() { return connection_; }
  const Connection::Request& request() const { return request_; }
  absl::string_view path() const { return path_; }  // without the query
  const std::string& body() const { return request_.body(); }
  const std::string& request_id() const { return request_id_; }  // the client's, or made here
  TimePoint received() const { return received_; }

  // The name of the route, for metrics; set by the router of paths.
  std::string endpoint = "other";

  // Whole replies. HEAD gets the headers only.
  boost::asio::awaitable<void> Reply(int status, absl::string_view content_type, std::string body,
                                     Headers more = Headers());
  boost::asio::awaitable<void> ReplyJson(std::string json) {
    return Reply(200, "application/json", std::move(json));
  }
  boost::asio::awaitable<void> ReplyError(absl::Status status);

  // Server-sent events: the header with the first of them, each as "data: <json>\n\n". True: flush
  // the connection before anything more is sent, as after Connection::Send.
  bool SendEvent(absl::string_view data);
  // Ends the stream. After an error the connection is closed.
  void EndEvents(bool close);
  bool events_begun() const { return events_begun_; }

  bool keep_alive() const { return keep_alive_; }
  void set_keep_alive(bool keep_alive) { keep_alive_ = keep_alive; }
  int status() const { return status_; }  // answered; 0: not yet
  // For the books when the client left before the answer.
  void set_status(int status) { status_ = status; }

 private:
  // What the header says of the connection holds: while the router drains it is closed.
  std::string Header(int status, absl::string_view content_type, const Headers& more);

  RouterContext& context_;
  Connection& connection_;
  const Connection::Request request_;
  const TimePoint received_;
  std::string path_;
  std::string request_id_;
  bool keep_alive_;
  bool events_begun_ = false;
  int status_ = 0;
};

}  // namespace baleen::router
