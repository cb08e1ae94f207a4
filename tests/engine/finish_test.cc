#include "engine/finish.h"

#include "gtest/gtest.h"

namespace baleen::engine {
namespace {

const model::Vocabulary kVocabulary{.limit = 100, .eos_ids = {1}};

FinishReason After(int32_t token, int generated, int length, model::SamplingParams params) {
  return FinishAfter(token, generated, length, /*max_context=*/50, params, kVocabulary);
}

TEST(FinishAfter, GoesOnOtherwise) {
  EXPECT_EQ(After(5, 1, 10, {.max_new_tokens = 2}), FinishReason::kNone);
}

TEST(FinishAfter, StopsAtEosUnlessIgnored) {
  EXPECT_EQ(After(1, 1, 10, {}), FinishReason::kStop);
  EXPECT_EQ(After(1, 1, 10, {.ignore_eos = true}), FinishReason::kNone);
}

TEST(FinishAfter, StopsAtStopIds) {
  EXPECT_EQ(After(9, 1, 10, {.stop_token_ids = {8, 9}}), FinishReason::kStop);
  EXPECT_EQ(After(1, 1, 10, {.stop_token_ids = {1}, .ignore_eos = true}), FinishReason::kStop)
      << "an explicit stop id counts even when it is EOS";
}

TEST(FinishAfter, StopsAtLimits) {
  EXPECT_EQ(After(5, 3, 10, {.max_new_tokens = 3}), FinishReason::kLength);
  EXPECT_EQ(After(5, 3, 49, {}), FinishReason::kNone);
  EXPECT_EQ(After(5, 3, 50, {}), FinishReason::kLength);
}

TEST(FinishAfter, AStopWinsOverALimit) {
  EXPECT_EQ(After(1, 3, 50, {.max_new_tokens = 3}), FinishReason::kStop);
}

}  // namespace
}  // namespace baleen::engine
