#pragma once

#include "absl/status/statusor.h"
#include "gmock/gmock.h"

namespace baleen::testing {

inline const absl::Status& StatusOf(const absl::Status& s) { return s; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& s) {
  return s.status();
}

MATCHER(IsOk, "") {
  *result_listener << StatusOf(arg).ToString();
  return StatusOf(arg).ok();
}

// StatusIs(absl::StatusCode::kNotFound, HasSubstr("model-00001")).
MATCHER_P2(StatusIs, code, message, "") {
  *result_listener << StatusOf(arg).ToString();
  return StatusOf(arg).code() == code &&
         ::testing::ExplainMatchResult(message, std::string(StatusOf(arg).message()),
                                       result_listener);
}

}  // namespace baleen::testing

#define BALEEN_ASSERT_OK(expr) ASSERT_THAT((expr), ::baleen::testing::IsOk())
#define BALEEN_EXPECT_OK(expr) EXPECT_THAT((expr), ::baleen::testing::IsOk())
