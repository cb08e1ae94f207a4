// What rows of logits become is tested in sampling_batch_test.cc; here is how they get there.
#include "model/row_sampler.h"

#include <vector>

#include "gmock/gmock.h"

namespace baleen::model {
namespace {

using ::testing::ElementsAre;

constexpr int kVocab = 4;

class RowSamplerTest : public ::testing::Test {
 protected:
  kernels::Matrix Logits(std::vector<float>& values) {
    return {.data = values.data(),
            .rows = int(values.size()) / kVocab,
            .cols = kVocab,
            .stride = kVocab};
  }

  const std::unique_ptr<kernels::Backend> backend_ = kernels::MakeCpuBackend(1);
  const SamplingLimits limits_ = {
      .max_rows = 3, .max_sequences = 3, .vocabulary = {.limit = kVocab, .missing = {3}}};
  RowSampler sampler_{*backend_, limits_};
};

TEST_F(RowSamplerTest, RowsInPartsHaveTheirOwnParameters) {
  SamplingBatch batch(*backend_, limits_);
  for (const int32_t liked : {2, 1, 0})
    batch.AddSequence({.temperature = 0, .logit_bias = {{liked, 9}}, .top_logprobs = 1}, {}, 5, {});
  sampler_.Upload(batch);
  std::vector<float> first(2 * kVocab), second(kVocab);
  sampler_.Sample(Logits(first), 0);
  sampler_.Sample(Logits(second), 2);
  sampler_.Download(batch);
  EXPECT_THAT((std::vector{batch.TokenOf(0), batch.TokenOf(1), batch.TokenOf(2)}),
              ElementsAre(2, 1, 0));
  EXPECT_THAT(batch.LogprobsOf(2)->top_tokens, ElementsAre(0));
}

TEST_F(RowSamplerTest, GreedyKnowsNoParametersButTheVocabulary) {
  std::vector<float> logits = {0, 2, 1, 9, 3, 2, 1, 9};
  std::vector<int32_t> tokens(2);
  sampler_.Greedy(Logits(logits), tokens.data());
  EXPECT_THAT(tokens, ElementsAre(1, 0));
}

}  // namespace
}  // namespace baleen::model
