#include "router/http/exchange.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/ids.h"
#include "router/api/api_error.h"

namespace baleen::router {

namespace asio = boost::asio;
namespace http = boost::beast::http;

namespace {

constexpr size_t kMaxRequestIdBytes = 128;

absl::string_view View(boost::beast::string_view s) { return {s.data(), s.size()}; }

// The client's id if it can stand in a header and a log line, else one of ours.
std::string RequestIdOf(const Connection::Request& request) {
  const absl::string_view given = View(request["x-request-id"]);
  const bool clean =
      std::all_of(given.begin(), given.end(), [](char c) { return c > 0x20 && c < 0x7f; });
  if (!given.empty() && given.size() <= kMaxRequestIdBytes && clean) return std::string(given);
  return absl::StrFormat("req-%016x", RandomId());
}

}  // namespace

Exchange::Exchange(RouterContext& context, Connection& connection, Connection::Request request)
    : context_(context),
      connection_(connection),
      request_(std::move(request)),
      received_(context.clock.Now()),
      request_id_(RequestIdOf(request_)),
      keep_alive_(request_.keep_alive()) {
  const absl::string_view target = View(request_.target());
  path_ = std::string(target.substr(0, target.find('?')));
}

std::string Exchange::Header(int status, absl::string_view content_type, const Headers& more) {
  if (context_.draining) keep_alive_ = false;
  std::string header =
      absl::StrCat("HTTP/1.1 ", status, " ",
                   View(http::obsolete_reason(static_cast<http::status>(status))), "\r\n");
  if (!content_type.empty()) absl::StrAppend(&header, "Content-Type: ", content_type, "\r\n");
  absl::StrAppend(&header, "x-request-id: ", request_id_,
                  "\r\nAccess-Control-Allow-Origin: *\r\n"
                  "Access-Control-Expose-Headers: x-request-id, retry-after\r\n");
  for (const auto& [name, value] : more) absl::StrAppend(&header, name, ": ", value, "\r\n");
  if (!keep_alive_)
    absl::StrAppend(&header, "Connection: close\r\n");
  else if (request_.version() == 10)
    absl::StrAppend(&header, "Connection: keep-alive\r\n");
  return header;
}

asio::awaitable<void> Exchange::Reply(int status, absl::string_view content_type, std::string body,
                                      Headers more) {
  status_ = status;
  std::string reply = Header(status, content_type, more);
  if (status != 204) absl::StrAppend(&reply, "Content-Length: ", body.size(), "\r\n");
  absl::StrAppend(&reply, "\r\n");
  if (request_.method() != http::verb::head) reply += body;
  if (co_await connection_.Write(std::move(reply))) keep_alive_ = false;
}

asio::awaitable<void> Exchange::ReplyError(absl::Status status) {
  const ErrorReply error = ToErrorReply(status);
  Headers headers;
  if (error.retry_after_s)
    headers.emplace_back("Retry-After", absl::StrCat(*error.retry_after_s));
  else if (error.http_status >= 500)
    headers.emplace_back("x-should-retry", error.should_retry ? "true" : "false");
  co_await Reply(error.http_status, "application/json", error.json, headers);
}

bool Exchange::SendEvent(absl::string_view data) {
  const bool chunked = request_.version() >= 11;
  std::string out;
  if (!std::exchange(events_begun_, true)) {
    status_ = 200;
    if (!chunked) keep_alive_ = false;  // the end of the connection is the end of the stream
    out = absl::StrCat(Header(200, "text/event-stream",
                              {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}}),
                       chunked ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n");
  }
  constexpr absl::string_view kBegin = "data: ";
  constexpr absl::string_view kEnd = "\n\n";
  if (chunked)
    absl::StrAppend(&out, absl::Hex(kBegin.size() + data.size() + kEnd.size()), "\r\n", kBegin,
                    data, kEnd, "\r\n");
  else
    absl::StrAppend(&out, kBegin, data, kEnd);
  return connection_.Send(std::move(out));
}

void Exchange::EndEvents(bool close) {
  if (request_.version() >= 11) connection_.Send("0\r\n\r\n");
  if (close) keep_alive_ = false;
}

}  // namespace baleen::router
