#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baleen::tools {

// Where a router listens.
struct HttpUrl {
  std::string host;
  std::string port;  // a number or a service name
};
// "http://HOST[:PORT][/]"; no https, no path. InvalidArgument otherwise.
absl::StatusOr<HttpUrl> ParseHttpUrl(absl::string_view url);

struct HttpResponse {
  int status = 0;
  std::string body;
};

// One blocking HTTP/1.1 request per call, each over its own connection. Connecting may take 10 s;
// the router bounds the rest, so a reply is waited for up to 600 s a read. Errors of the network
// are Unavailable or DeadlineExceeded and name the address; any HTTP status is a result.
class HttpClient {
 public:
  explicit HttpClient(HttpUrl url) : url_(std::move(url)) {}

  absl::StatusOr<HttpResponse> Get(const std::string& path) const;
  absl::StatusOr<HttpResponse> Post(const std::string& path, const std::string& json) const;

  // Hands the body of a 200 reply to `on_data` piece by piece, as it comes; the body of another
  // reply is returned instead. An error of `on_data` ends the call and is returned.
  using OnData = std::function<absl::Status(absl::string_view)>;
  absl::StatusOr<HttpResponse> PostStreaming(const std::string& path, const std::string& json,
                                             const OnData& on_data) const;

 private:
  const HttpUrl url_;
};

// The message of an error reply ({"error":{"message":...}}), or its status and first bytes. OK for
// a 2xx reply.
absl::Status ToStatus(const HttpResponse& response);

}  // namespace baleen::tools
