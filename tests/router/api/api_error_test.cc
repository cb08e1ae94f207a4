#include "router/api/api_error.h"

#include <nlohmann/json.hpp>

#include "gmock/gmock.h"

namespace baleen::router {
namespace {

using nlohmann::json;

TEST(ApiError, NamesTheParameterAndCode) {
  const ErrorReply reply = ToErrorReply(BadParam("n", "must be 1", "unsupported_value"));
  EXPECT_EQ(reply.http_status, 400);
  EXPECT_FALSE(reply.retry_after_s.has_value());
  EXPECT_FALSE(reply.should_retry);
  EXPECT_EQ(json::parse(reply.json),
            json::parse(R"({"error":{"message":"n: must be 1","type":"invalid_request_error",
                            "param":"n","code":"unsupported_value"}})"));
}

TEST(ApiError, AbsentFieldsAreNull) {
  const json error = json::parse(ToErrorReply(absl::NotFoundError("no")).json)["error"];
  EXPECT_TRUE(error["param"].is_null());
  EXPECT_TRUE(error["code"].is_null());
}

TEST(ApiError, StatusCodesMapToHttp) {
  using C = absl::StatusCode;
  const std::pair<C, int> cases[] = {{C::kInvalidArgument, 400},   {C::kNotFound, 404},
                                     {C::kResourceExhausted, 429}, {C::kInternal, 500},
                                     {C::kUnimplemented, 501},     {C::kAborted, 502},
                                     {C::kUnavailable, 503},       {C::kDeadlineExceeded, 504},
                                     {C::kCancelled, 499},         {C::kUnknown, 500}};
  for (const auto& [code, http] : cases)
    EXPECT_EQ(ToErrorReply(absl::Status(code, "x")).http_status, http);
  EXPECT_EQ(ToErrorReply(WithHttpStatus(absl::InvalidArgumentError("x"), 413)).http_status, 413);
}

TEST(ApiError, BackpressureSaysWhenToComeBack) {
  EXPECT_EQ(ToErrorReply(absl::UnavailableError("x")).retry_after_s, 1);
  EXPECT_EQ(ToErrorReply(absl::ResourceExhaustedError("x")).retry_after_s, 1);
  EXPECT_FALSE(ToErrorReply(absl::AbortedError("x")).should_retry);
}

TEST(ApiError, BytesThatAreNotUtf8StillGiveJson) {
  EXPECT_NO_THROW(json::parse(ToErrorReply(absl::NotFoundError("model \xff\xfe")).json));
}

}  // namespace
}  // namespace baleen::router
