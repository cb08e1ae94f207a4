#include "model/sampling_params.h"

#include <cmath>

#include "tests/testing/status_matchers.h"

namespace baleen::model {
namespace {

using ::baleen::testing::IsOk;
using ::baleen::testing::StatusIs;
using ::testing::HasSubstr;

TEST(ValidateSampling, DefaultsAndLimitsAreFine) {
  EXPECT_THAT(Validate({}, 100), IsOk());
  EXPECT_THAT(Validate({.max_new_tokens = 1,
                        .min_new_tokens = 1,
                        .temperature = 0,
                        .top_p = 1,
                        .min_p = 1,
                        .presence_penalty = -2,
                        .frequency_penalty = 2,
                        .logit_bias = {{99, -100}},
                        .stop_token_ids = {0, 99},
                        .top_logprobs = 20},
                       100),
              IsOk());
}

TEST(ValidateSampling, NamesTheField) {
  const std::pair<const char*, SamplingParams> cases[] = {
      {"max_new_tokens", {.max_new_tokens = 0}},
      {"min_new_tokens", {.min_new_tokens = -1}},
      {"min_new_tokens", {.max_new_tokens = 3, .min_new_tokens = 4}},
      {"temperature", {.temperature = NAN}},
      {"temperature", {.temperature = -0.1f}},
      {"temperature", {.temperature = INFINITY}},
      {"top_p", {.top_p = 0}},
      {"top_p", {.top_p = 1.01f}},
      {"top_p", {.top_p = NAN}},
      {"top_k", {.top_k = -1}},
      {"min_p", {.min_p = NAN}},
      {"min_p", {.min_p = 1.5f}},
      {"presence_penalty", {.presence_penalty = 2.1f}},
      {"frequency_penalty", {.frequency_penalty = NAN}},
      {"repetition_penalty", {.repetition_penalty = 0}},
      {"repetition_penalty", {.repetition_penalty = NAN}},
      {"repetition_penalty", {.repetition_penalty = 1e-38f}},
      {"repetition_penalty", {.repetition_penalty = 11}},
      {"logit_bias", {.logit_bias = {{100, 0}}}},
      {"logit_bias", {.logit_bias = {{5, NAN}}}},
      {"logit_bias", {.logit_bias = {{5, 101}}}},
      {"stop_token_ids", {.stop_token_ids = {-1}}},
      {"top_logprobs", {.top_logprobs = 21}},
      {"top_logprobs", {.top_logprobs = -1}},
  };
  for (const auto& [field, params] : cases) {
    EXPECT_THAT(Validate(params, 100),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(field)));
  }
}

}  // namespace
}  // namespace baleen::model
