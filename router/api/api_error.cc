#include "router/api/api_error.h"

#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace baleen::router {
namespace {

constexpr char kParam[] = "baleen/param";
constexpr char kCode[] = "baleen/code";
constexpr char kHttp[] = "baleen/http";
constexpr int kRetryAfterSeconds = 1;

std::string Payload(const absl::Status& status, const char* key) {
  const auto payload = status.GetPayload(key);
  return payload.has_value() ? std::string(*payload) : std::string();
}

int HttpStatus(const absl::Status& status) {
  int explicit_status = 0;
  if (absl::SimpleAtoi(Payload(status, kHttp), &explicit_status)) return explicit_status;
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnimplemented:
      return 501;
    case absl::StatusCode::kAborted:
      return 502;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:  // foreign and future codes
      return 500;
  }
}

const char* TypeOf(int http_status) {
  if (http_status == 429) return "rate_limit_error";
  if (http_status == 503) return "service_unavailable";
  return http_status < 500 ? "invalid_request_error" : "server_error";
}

}  // namespace

absl::Status BadParam(absl::string_view param, absl::string_view message, absl::string_view code) {
  absl::Status status = absl::InvalidArgumentError(absl::StrCat(param, ": ", message));
  status.SetPayload(kParam, absl::Cord(param));
  return code.empty() ? status : WithCode(std::move(status), code);
}

absl::Status WithHttpStatus(absl::Status status, int http_status) {
  status.SetPayload(kHttp, absl::Cord(absl::StrCat(http_status)));
  return status;
}

absl::Status WithCode(absl::Status status, absl::string_view code) {
  status.SetPayload(kCode, absl::Cord(code));
  return status;
}

std::string ParamOf(const absl::Status& status) { return Payload(status, kParam); }

ErrorReply ToErrorReply(const absl::Status& status) {
  ErrorReply reply;
  reply.http_status = HttpStatus(status);
  const auto text_or_null = [](std::string text) {
    return text.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(std::move(text));
  };
  nlohmann::ordered_json error;
  error["message"] = std::string(status.message());
  error["type"] = TypeOf(reply.http_status);
  error["param"] = text_or_null(ParamOf(status));
  error["code"] = text_or_null(Payload(status, kCode));
  // A message may quote what the client sent, which need not be UTF-8.
  reply.json = nlohmann::ordered_json{{"error", std::move(error)}}.dump(
      -1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  if (reply.http_status == 429 || reply.http_status == 503)
    reply.retry_after_s = kRetryAfterSeconds;
  reply.should_retry = reply.http_status == 429 || reply.http_status == 503;
  return reply;
}

}  // namespace baleen::router
