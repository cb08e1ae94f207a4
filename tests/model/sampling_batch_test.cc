#include "model/sampling_batch.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "model/row_sampler.h"
#include "tests/testing/status_matchers.h"

namespace baleen::model {
namespace {

using ::baleen::testing::IsOk;
using ::baleen::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int32_t kEos = 1;

// A sampler over a vocabulary of six ids, the last without a token.
class SamplingBatchTest : public ::testing::Test {
 protected:
  static constexpr int kVocab = 6;

  // Tokens of all rows that were added, each with these logits.
  std::vector<int32_t> Tokens(const std::vector<float>& logits) {
    std::vector<float> all;
    for (int r = 0; r < batch_.rows(); ++r) all.insert(all.end(), logits.begin(), logits.end());
    sampler_.Upload(batch_);
    sampler_.Sample({.data = all.data(), .rows = batch_.rows(), .cols = kVocab, .stride = kVocab},
                    0);
    sampler_.Download(batch_);
    std::vector<int32_t> tokens;
    for (int r = 0; r < batch_.rows(); ++r) tokens.push_back(batch_.TokenOf(r));
    return tokens;
  }

  const std::unique_ptr<kernels::Backend> backend_ = kernels::MakeCpuBackend(1);
  const SamplingLimits limits_ = {
      .max_rows = 8,
      .max_sequences = 3,
      .vocabulary = {.limit = kVocab, .missing = {5}, .eos_ids = {kEos}}};
  RowSampler sampler_{*backend_, limits_};
  SamplingBatch batch_{*backend_, limits_};
  SamplingParams greedy_{.temperature = 0};
};

TEST_F(SamplingBatchTest, IdsWithoutATokenAreNeverChosen) {
  batch_.AddGreedy(1);
  batch_.AddSequence({.temperature = 1, .logit_bias = {{5, 100}, {7, 100}}}, {}, 3, {});
  for (const int32_t token : Tokens({0, 0, 3, 0, 0, 50})) EXPECT_NE(token, 5);
}

TEST_F(SamplingBatchTest, EverySequenceHasItsOwnParameters) {
  SamplingParams biased = greedy_;
  biased.logit_bias = {{3, 5}, {3, 5}};  // added up
  batch_.AddSequence(greedy_, {}, 1, std::vector<int32_t>{4});
  batch_.AddSequence(biased, {}, 1, {});
  EXPECT_THAT(Tokens({9, 0, 0, 0, 0, 0}), ElementsAre(0, 0, 3));
}

// The drafts before a row count as generated, as if they had been accepted one step earlier.
TEST_F(SamplingBatchTest, DraftsCountForThePenaltiesOfLaterRows) {
  SamplingParams params = greedy_;
  params.frequency_penalty = 0.6f;
  TokenHistory history(params, {});
  history.Add(2);
  batch_.AddSequence(params, history, 5, std::vector<int32_t>{2, 2});
  const std::vector<float> logits = {0, 0, 3, 1.5f, 0, 0};
  EXPECT_THAT(Tokens(logits), ElementsAre(2, 2, 3));
  for (const int32_t next : {2, 2}) {
    batch_.Clear();
    history.Add(next);
    batch_.AddSequence(params, history, 5, {});
    EXPECT_THAT(Tokens(logits), ElementsAre(history.generated() < 3 ? 2 : 3));
  }
}

TEST_F(SamplingBatchTest, EndsWaitForTheMinimum) {
  SamplingParams params = greedy_;
  params.min_new_tokens = 3;
  params.stop_token_ids = {2, 99};
  TokenHistory history(params, {});
  history.Add(0);
  batch_.AddSequence(params, history, 5, std::vector<int32_t>{0, 0, 0});
  EXPECT_THAT(Tokens({1, 9, 8, 0, 0, 0}), ElementsAre(0, 0, 1, 1));
}

TEST_F(SamplingBatchTest, DraftRowsDrawWhatStepsOneByOneDraw) {
  const SamplingParams params{.temperature = 1, .seed = 77};
  const std::vector<float> logits = {1, 0.5f, 2, 1.5f, 0, 0};
  batch_.AddSequence(params, {}, 40, std::vector<int32_t>{0, 0, 0});
  const std::vector<int32_t> together = Tokens(logits);
  for (int j = 0; j < 4; ++j) {
    batch_.Clear();
    batch_.AddSequence(params, {}, 40 + j, {});
    EXPECT_EQ(Tokens(logits)[0], together[j]);
  }
}

// Whose tokens the host has not seen: the rows are those of a sequence but for their positions.
TEST_F(SamplingBatchTest, FollowersDrawWhatTheirSequenceDraws) {
  const SamplingParams params{.temperature = 1, .logit_bias = {{3, 2}}, .seed = 77};
  const std::vector<float> logits = {1, 0.5f, 2, 1.5f, 0, 0};
  batch_.AddSequence(params, {}, 40, std::vector<int32_t>{0, 0});
  const std::vector<int32_t> known = Tokens(logits);
  batch_.Clear();
  batch_.AddFollower(params, 3);
  const int32_t follows = 0, newest_token = 2, newest_position = 39, slots = 50;
  const int32_t drafts[] = {3, 4};
  std::vector<int32_t> tokens(3), positions(3), sequences(3);
  sampler_.Upload(batch_);
  backend_->FollowRows({.follows = &follows,
                        .newest_tokens = &newest_token,
                        .newest_positions = &newest_position,
                        .drafts = drafts,
                        .drafts_stride = 1,
                        .slots = &slots,
                        .sequences = 1,
                        .per_sequence = 3,
                        .empty_sequence = 1,
                        .tokens = tokens.data(),
                        .positions = positions.data(),
                        .row_sequences = sequences.data(),
                        .sampling = sampler_.device_rows()});
  std::vector<float> all;
  for (int r = 0; r < 3; ++r) all.insert(all.end(), logits.begin(), logits.end());
  sampler_.Sample({.data = all.data(), .rows = 3, .cols = kVocab, .stride = kVocab}, 0);
  sampler_.Download(batch_);
  for (int r = 0; r < 3; ++r) EXPECT_EQ(batch_.TokenOf(r), known[r]) << r;
}

TEST_F(SamplingBatchTest, WhoseTokensMatterCannotFollow) {
  EXPECT_TRUE(SamplingBatch::CanFollow({.temperature = 1, .top_k = 5}, 0));
  EXPECT_FALSE(SamplingBatch::CanFollow({.frequency_penalty = 0.1f}, 9));
  EXPECT_FALSE(SamplingBatch::CanFollow({.repetition_penalty = 1.1f}, 9));
  EXPECT_FALSE(SamplingBatch::CanFollow({.min_new_tokens = 3}, 2));
  EXPECT_TRUE(SamplingBatch::CanFollow({.min_new_tokens = 3}, 3));
}

TEST_F(SamplingBatchTest, LogprobsWhereTheyAreWanted) {
  SamplingParams params = greedy_;
  params.top_logprobs = 2;
  batch_.AddSequence(greedy_, {}, 1, {});
  batch_.AddSequence(params, {}, 1, {});
  batch_.AddKnown(0, 0);
  const double z = std::exp(1) + 2 * std::exp(2) + 2;
  EXPECT_THAT(Tokens({1, 2, 2, 0, 0, 50}), ElementsAre(1, 1, 0));
  EXPECT_FALSE(batch_.LogprobsOf(0).has_value());
  const TokenLogprobs chosen = *batch_.LogprobsOf(1);
  EXPECT_EQ(chosen.token, 1);
  EXPECT_NEAR(chosen.logprob, 2 - std::log(z), 1e-5);
  EXPECT_THAT(chosen.top_tokens, ElementsAre(1, 2));
  EXPECT_NEAR(batch_.LogprobsOf(2)->logprob, 1 - std::log(z), 1e-5);
  EXPECT_THAT(batch_.LogprobsOf(2)->top_tokens, ElementsAre());
}

TEST_F(SamplingBatchTest, WhatCannotBeChosenIsAnErrorOfItsRow) {
  batch_.AddGreedy(1);
  Tokens({0, NAN, 0, 0, 0, 0});
  EXPECT_THAT(batch_.StatusOf(0), StatusIs(absl::StatusCode::kInternal, HasSubstr("NaN")));
  constexpr float kInf = std::numeric_limits<float>::infinity();
  Tokens({-kInf, -kInf, -kInf, -kInf, -kInf, 3});
  EXPECT_THAT(batch_.StatusOf(0), StatusIs(absl::StatusCode::kInternal, HasSubstr("no token")));
  Tokens({0, 0, 1, 0, 0, 0});
  EXPECT_THAT(batch_.StatusOf(0), IsOk());
}

}  // namespace
}  // namespace baleen::model
