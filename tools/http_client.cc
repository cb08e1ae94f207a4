#include "tools/http_client.h"

#include <array>
#include <chrono>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/beast/core.hpp"
#include "boost/beast/http.hpp"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace baleen::tools {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

constexpr std::chrono::seconds kConnectTimeout(10);
constexpr std::chrono::seconds kReadTimeout(600);

// One request and its reply. Beast's timeouts work with asynchronous operations only, so each step
// is started and its io_context run until it is done.
class Exchange {
 public:
  explicit Exchange(const HttpUrl& url)
      : address_(absl::StrCat(url.host, ":", url.port)), stream_(context_) {
    // Not boost::none: Boost 1.74 compares lengths with it, and none is less than any.
    parser_.body_limit(std::numeric_limits<uint64_t>::max());
  }

  absl::Status Send(const HttpUrl& url, http::verb method, const std::string& path,
                    const std::string& json) {
    asio::ip::tcp::resolver resolver(context_);
    beast::error_code error;
    const auto endpoints = resolver.resolve(url.host, url.port, error);
    BALEEN_RETURN_IF_ERROR(ToStatus(error));
    stream_.expires_after(kConnectTimeout);
    stream_.async_connect(endpoints, [&](beast::error_code e, auto) { error = e; });
    BALEEN_RETURN_IF_ERROR(Run(error));
    http::request<http::string_body> request(method, path, 11);
    request.set(http::field::host, address_);
    request.set(http::field::user_agent, "baleenctl");
    request.set(http::field::connection, "close");
    if (method == http::verb::post) request.set(http::field::content_type, "application/json");
    request.body() = json;
    request.prepare_payload();
    stream_.expires_after(kReadTimeout);
    http::async_write(stream_, request, [&](beast::error_code e, size_t) { error = e; });
    return Run(error);
  }

  absl::StatusOr<int> ReadHeader() {
    beast::error_code error;
    stream_.expires_after(kReadTimeout);
    http::async_read_header(stream_, buffer_, parser_,
                            [&](beast::error_code e, size_t) { error = e; });
    BALEEN_RETURN_IF_ERROR(Run(error));
    return parser_.get().result_int();
  }

  absl::Status ReadBody(const HttpClient::OnData& on_data) {
    std::array<char, 16 << 10> piece;
    while (!parser_.is_done()) {
      parser_.get().body() = {piece.data(), piece.size(), /*more=*/true};
      beast::error_code error;
      stream_.expires_after(kReadTimeout);
      http::async_read_some(stream_, buffer_, parser_,
                            [&](beast::error_code e, size_t) { error = e; });
      const absl::Status status = Run(error);
      const size_t bytes = piece.size() - parser_.get().body().size;
      if (bytes > 0) BALEEN_RETURN_IF_ERROR(on_data(absl::string_view(piece.data(), bytes)));
      BALEEN_RETURN_IF_ERROR(status);
    }
    return absl::OkStatus();
  }

 private:
  // Runs what was started; `error` is set by its handler.
  absl::Status Run(const beast::error_code& error) {
    context_.restart();
    context_.run();
    if (error == http::error::need_buffer) return absl::OkStatus();  // the piece is full
    return ToStatus(error);
  }

  absl::Status ToStatus(const beast::error_code& error) const {
    if (!error) return absl::OkStatus();
    if (error == beast::error::timeout)
      return absl::DeadlineExceededError(absl::StrCat(address_, ": no answer in time"));
    return absl::UnavailableError(absl::StrCat(address_, ": ", error.message()));
  }

  const std::string address_;
  asio::io_context context_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  http::response_parser<http::buffer_body> parser_;
};

absl::StatusOr<HttpResponse> Ask(const HttpUrl& url, http::verb method, const std::string& path,
                                 const std::string& json, const HttpClient::OnData* on_data) {
  Exchange exchange(url);
  BALEEN_RETURN_IF_ERROR(exchange.Send(url, method, path, json));
  HttpResponse response;
  BALEEN_ASSIGN_OR_RETURN(response.status, exchange.ReadHeader());
  const auto collect = [&](absl::string_view data) {
    response.body.append(data.data(), data.size());
    return absl::OkStatus();
  };
  const bool stream = on_data != nullptr && response.status == 200;
  BALEEN_RETURN_IF_ERROR(exchange.ReadBody(stream ? *on_data : collect));
  return response;
}

}  // namespace

absl::StatusOr<HttpUrl> ParseHttpUrl(absl::string_view url) {
  absl::string_view rest = url;
  const bool http = absl::ConsumePrefix(&rest, "http://");
  absl::ConsumeSuffix(&rest, "/");
  const size_t colon = rest.rfind(':');
  const bool has_port = colon != absl::string_view::npos && rest.find(']', colon) == rest.npos;
  absl::string_view host = rest.substr(0, has_port ? colon : rest.size());
  const absl::string_view port = has_port ? rest.substr(colon + 1) : "80";
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  if (!http || host.empty() || port.empty() || rest.find('/') != rest.npos)
    return absl::InvalidArgumentError(
        absl::StrCat("\"", url, "\" is not of the form http://HOST:PORT"));
  return HttpUrl{.host = std::string(host), .port = std::string(port)};
}

absl::StatusOr<HttpResponse> HttpClient::Get(const std::string& path) const {
  return Ask(url_, http::verb::get, path, "", nullptr);
}

absl::StatusOr<HttpResponse> HttpClient::Post(const std::string& path,
                                              const std::string& json) const {
  return Ask(url_, http::verb::post, path, json, nullptr);
}

absl::StatusOr<HttpResponse> HttpClient::PostStreaming(const std::string& path,
                                                       const std::string& json,
                                                       const OnData& on_data) const {
  return Ask(url_, http::verb::post, path, json, &on_data);
}

absl::Status ToStatus(const HttpResponse& response) {
  if (response.status >= 200 && response.status < 300) return absl::OkStatus();
  const nlohmann::json body = nlohmann::json::parse(response.body, nullptr, false);
  std::string message = response.body.substr(0, 200);
  if (body.is_object() && body.contains("error") && body["error"].is_object())
    message = body["error"].value("message", message);
  return absl::UnknownError(absl::StrCat("HTTP ", response.status, ": ", message));
}

}  // namespace baleen::tools
