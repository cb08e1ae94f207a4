#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace baleen::router {

// Every error of the router is an absl::Status; what a client sees of it is decided here and
// nowhere else. The status code gives the HTTP status:
//   InvalidArgument 400, Unauthenticated 401, PermissionDenied 403, NotFound 404, AlreadyExists
//   409, ResourceExhausted 429, Cancelled 499, Internal/Unknown/DataLoss 500, Unimplemented 501,
//   Aborted 502, Unavailable 503, DeadlineExceeded 504; WithHttpStatus overrides it.

// InvalidArgument that names the offending field, and optionally OpenAI's machine-readable code.
absl::Status BadParam(absl::string_view param, absl::string_view message,
                      absl::string_view code = "");

absl::Status WithHttpStatus(absl::Status status, int http_status);
absl::Status WithCode(absl::Status status, absl::string_view code);

struct ErrorReply {
  int http_status = 500;
  std::string json;                  // {"error":{"message","type","param","code"}}
  std::optional<int> retry_after_s;  // with 429 and 503
  bool should_retry = true;          // false: the client must not try again by itself
};

// `status` must not be OK.
ErrorReply ToErrorReply(const absl::Status& status);

// The field named by BadParam, or empty.
std::string ParamOf(const absl::Status& status);

}  // namespace baleen::router
