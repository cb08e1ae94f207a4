#include "model/row_sampler.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "tests/testing/status_matchers.h"

namespace baleen::model {
namespace {

using ::baleen::testing::IsOk;
using ::baleen::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int32_t kEos = 1;

// A sampler over a vocabulary of six ids, the last without a token.
class RowSamplerTest : public ::testing::Test {
 protected:
  static constexpr int kVocab = 6;

  // Tokens of all rows that were added, each with these logits.
  std::vector<int32_t> Tokens(const std::vector<float>& logits) {
    std::vector<float> all;
    for (int r = 0; r < sampler_.rows(); ++r) all.insert(all.end(), logits.begin(), logits.end());
    sampler_.Upload();
    sampler_.Sample({.data = all.data(), .rows = sampler_.rows(), .cols = kVocab, .stride = kVocab},
                    0);
    sampler_.Download();
    std::vector<int32_t> tokens;
    for (int r = 0; r < sampler_.rows(); ++r) tokens.push_back(sampler_.TokenOf(r));
    return tokens;
  }

  const std::unique_ptr<kernels::Backend> backend_ = kernels::MakeCpuBackend(1);
  RowSampler sampler_{*backend_,
                      {.max_rows = 8,
                       .max_sequences = 3,
                       .vocabulary = {.limit = kVocab, .missing = {5}, .eos_ids = {kEos}}}};
  SamplingParams greedy_{.temperature = 0};
};

TEST_F(RowSamplerTest, IdsWithoutATokenAreNeverChosen) {
  sampler_.AddGreedy(1);
  sampler_.AddSequence({.temperature = 1, .logit_bias = {{5, 100}, {7, 100}}}, {}, 3, {});
  for (const int32_t token : Tokens({0, 0, 3, 0, 0, 50})) EXPECT_NE(token, 5);
}

TEST_F(RowSamplerTest, EverySequenceHasItsOwnParameters) {
  SamplingParams biased = greedy_;
  biased.logit_bias = {{3, 5}, {3, 5}};  // added up
  sampler_.AddSequence(greedy_, {}, 1, std::vector<int32_t>{4});
  sampler_.AddSequence(biased, {}, 1, {});
  EXPECT_THAT(Tokens({9, 0, 0, 0, 0, 0}), ElementsAre(0, 0, 3));
}

// The drafts before a row count as generated, as if they had been accepted one step earlier.
TEST_F(RowSamplerTest, DraftsCountForThePenaltiesOfLaterRows) {
  SamplingParams params = greedy_;
  params.frequency_penalty = 0.6f;
  TokenHistory history(params, {});
  history.Add(2);
  sampler_.AddSequence(params, history, 5, std::vector<int32_t>{2, 2});
  const std::vector<float> logits = {0, 0, 3, 1.5f, 0, 0};
  EXPECT_THAT(Tokens(logits), ElementsAre(2, 2, 3));
  for (const int32_t next : {2, 2}) {
    sampler_.Clear();
    history.Add(next);
    sampler_.AddSequence(params, history, 5, {});
    EXPECT_THAT(Tokens(logits), ElementsAre(history.generated() < 3 ? 2 : 3));
  }
}

TEST_F(RowSamplerTest, EndsWaitForTheMinimum) {
  SamplingParams params = greedy_;
  params.min_new_tokens = 3;
  params.stop_token_ids = {2, 99};
  TokenHistory history(params, {});
  history.Add(0);
  sampler_.AddSequence(params, history, 5, std::vector<int32_t>{0, 0, 0});
  EXPECT_THAT(Tokens({1, 9, 8, 0, 0, 0}), ElementsAre(0, 0, 1, 1));
}

TEST_F(RowSamplerTest, DraftRowsDrawWhatStepsOneByOneDraw) {
  const SamplingParams params{.temperature = 1, .seed = 77};
  const std::vector<float> logits = {1, 0.5f, 2, 1.5f, 0, 0};
  sampler_.AddSequence(params, {}, 40, std::vector<int32_t>{0, 0, 0});
  const std::vector<int32_t> together = Tokens(logits);
  for (int j = 0; j < 4; ++j) {
    sampler_.Clear();
    sampler_.AddSequence(params, {}, 40 + j, {});
    EXPECT_EQ(Tokens(logits)[0], together[j]);
  }
}

TEST_F(RowSamplerTest, LogprobsWhereTheyAreWanted) {
  SamplingParams params = greedy_;
  params.top_logprobs = 2;
  sampler_.AddSequence(greedy_, {}, 1, {});
  sampler_.AddSequence(params, {}, 1, {});
  sampler_.AddKnown(0, 0);
  const double z = std::exp(1) + 2 * std::exp(2) + 2;
  EXPECT_THAT(Tokens({1, 2, 2, 0, 0, 50}), ElementsAre(1, 1, 0));
  EXPECT_FALSE(sampler_.LogprobsOf(0).has_value());
  const TokenLogprobs chosen = *sampler_.LogprobsOf(1);
  EXPECT_EQ(chosen.token, 1);
  EXPECT_NEAR(chosen.logprob, 2 - std::log(z), 1e-5);
  EXPECT_THAT(chosen.top_tokens, ElementsAre(1, 2));
  EXPECT_NEAR(sampler_.LogprobsOf(2)->logprob, 1 - std::log(z), 1e-5);
  EXPECT_THAT(sampler_.LogprobsOf(2)->top_tokens, ElementsAre());
}

TEST_F(RowSamplerTest, WhatCannotBeChosenIsAnErrorOfItsRow) {
  sampler_.AddGreedy(1);
  Tokens({0, NAN, 0, 0, 0, 0});
  EXPECT_THAT(sampler_.StatusOf(0), StatusIs(absl::StatusCode::kInternal, HasSubstr("NaN")));
  constexpr float kInf = std::numeric_limits<float>::infinity();
  Tokens({-kInf, -kInf, -kInf, -kInf, -kInf, 3});
  EXPECT_THAT(sampler_.StatusOf(0), StatusIs(absl::StatusCode::kInternal, HasSubstr("no token")));
  Tokens({0, 0, 1, 0, 0, 0});
  EXPECT_THAT(sampler_.StatusOf(0), IsOk());
}

}  // namespace
}  // namespace baleen::model
