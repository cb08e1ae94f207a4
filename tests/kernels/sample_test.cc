// Sample on the CPU: the law of the tokens, cuts, edits, log-probabilities.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "gmock/gmock.h"
#include "kernels/backend.h"
#include "kernels/sampling_math.h"

namespace baleen::kernels {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Output {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  std::vector<int32_t> top_tokens;
  std::vector<float> top_logprobs;
};

// Samples rows of logits, one after the other in `logits`, which stays as it was.
Output SampleRows(std::vector<float> logits, const std::vector<SamplingRow>& rows,
                  const std::vector<LogitEdit>& edits = {},
                  const std::vector<int32_t>& missing = {}, int threads = 1) {
  static Backend* backends[] = {MakeCpuBackend(1).release(), MakeCpuBackend(2).release()};
  const int count = static_cast<int>(rows.size());
  const int vocab = static_cast<int>(logits.size()) / count;
  const std::vector<float> before = logits;
  Output out = {std::vector<int32_t>(count, -77), std::vector<float>(count, 9),
                std::vector<int32_t>(count * kMaxTopLogprobs, -77),
                std::vector<float>(count * kMaxTopLogprobs, 9)};
  backends[threads - 1]->Sample(
      {.logits = {.data = logits.data(), .rows = count, .cols = vocab, .stride = vocab},
       .limit = vocab,
       .missing = missing.data(),
       .missing_count = static_cast<int>(missing.size()),
       .rows = rows.data(),
       .edits = edits.data(),
       .tokens = out.tokens.data(),
       .logprobs = out.logprobs.data(),
       .top_tokens = out.top_tokens.data(),
       .top_logprobs = out.top_logprobs.data()});
  for (size_t i = 0; i < logits.size(); ++i) {
    const bool masked = std::count(missing.begin(), missing.end(), int(i % vocab)) > 0;
    EXPECT_EQ(std::bit_cast<uint32_t>(logits[i]),
              std::bit_cast<uint32_t>(masked ? -kInf : before[i]));
  }
  return out;
}

int32_t TokenAt(const std::vector<float>& logits, SamplingRow row, int position = 0) {
  row.position = position;
  return SampleRows(logits, {row}).tokens[0];
}

// The token of one row with these edits.
int32_t Edited(const std::vector<float>& logits, SamplingRow row, std::vector<LogitEdit> edits) {
  row.edits = static_cast<int32_t>(edits.size());
  return SampleRows(logits, {row}, edits).tokens[0];
}

double Uniform(uint64_t seed, int position) {
  return double(sampling::RandomBits(seed, position) >> 11) * 0x1p-53;
}

// How often each token comes out of `draws` draws at consecutive positions, as a fraction.
std::vector<double> Frequencies(const std::vector<float>& logits, SamplingRow row,
                                int draws = 40000) {
  row.seed = 99;
  std::vector<double> counts(logits.size());
  for (int i = 0; i < draws; ++i) ++counts[TokenAt(logits, row, i)];
  for (double& count : counts) count /= draws;
  return counts;
}

TEST(Sample, GreedyTakesTheLowestOfEqualLogits) {
  EXPECT_EQ(TokenAt({1, 0, 3, 3, 2}, {}), 2);
  EXPECT_EQ(TokenAt({-kInf, -kInf, -5, -kInf}, {}), 2);
  EXPECT_EQ(TokenAt({-1, -0.0f, 0.0f}, {}), 1) << "both zeros are equal";
}

TEST(Sample, TheLawIsTheSoftmax) {
  const auto f = Frequencies({0.0f, 1.0f, 2.0f, -kInf}, {.temperature = 1});
  const double z = 1 + std::exp(1) + std::exp(2);
  EXPECT_NEAR(f[0], 1 / z, 0.01);
  EXPECT_NEAR(f[1], std::exp(1) / z, 0.01);
  EXPECT_NEAR(f[2], std::exp(2) / z, 0.01);
  EXPECT_EQ(f[3], 0);
}

TEST(Sample, TemperatureDivides) {
  const auto f = Frequencies({0.0f, 1.0f}, {.temperature = 0.5f});
  EXPECT_NEAR(f[1], std::exp(2) / (1 + std::exp(2)), 0.01);
}

TEST(Sample, TopKKeepsTheLargestAndTheLowerIdOfATie) {
  const auto f = Frequencies({1, 2, 1, 1, 3}, {.top_k = 3, .temperature = 1});
  EXPECT_GT(f[0], 0);
  EXPECT_EQ(f[2], 0);
  EXPECT_EQ(f[3], 0);
  EXPECT_NEAR(f[4], std::exp(3) / (std::exp(1) + std::exp(2) + std::exp(3)), 0.01);
}

TEST(Sample, TopPKeepsTheSmallestSetThatReachesIt) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.5f), std::log(0.15f),
                                     std::log(0.25f)};
  EXPECT_THAT(Frequencies(logits, {.temperature = 1, .top_p = 0.3f}), ElementsAre(0, 1, 0, 0));
  auto f = Frequencies(logits, {.temperature = 1, .top_p = 0.7f});
  EXPECT_NEAR(f[1], 0.5 / 0.75, 0.01);
  EXPECT_NEAR(f[3], 0.25 / 0.75, 0.01);
  EXPECT_EQ(f[0] + f[2], 0);
  f = Frequencies(logits, {.temperature = 1, .top_p = 0.8f});
  EXPECT_EQ(f[0], 0);
  EXPECT_NEAR(f[2], 0.15 / 0.9, 0.01);
}

TEST(Sample, TopPLooksAtWhatTopKLeft) {
  const std::vector<float> logits = {std::log(0.4f), std::log(0.3f), std::log(0.3f)};
  // Of the two left, the first has 4/7 of the mass.
  EXPECT_THAT(Frequencies(logits, {.top_k = 2, .temperature = 1, .top_p = 0.55f}),
              ElementsAre(1, 0, 0));
}

TEST(Sample, TopPOfManyCandidatesSortsOnlyWhatItNeeds) {
  std::vector<float> logits(20000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = std::sin(static_cast<float>(i));
  const double total = [&] {
    double sum = 0;
    for (float logit : logits) sum += std::exp(logit);
    return sum;
  }();
  std::vector<float> sorted = logits;
  std::sort(sorted.rbegin(), sorted.rend());
  double mass = 0;
  size_t count = 0;
  while (mass < 0.3 * total) mass += std::exp(sorted[count++]);
  for (int i = 0; i < 200; ++i) {
    const int32_t token = TokenAt(logits, {.seed = 4, .temperature = 1, .top_p = 0.3f}, i);
    EXPECT_GE(logits[token], sorted[count]);
  }
}

TEST(Sample, MinPIsRelativeToTheLargest) {
  const auto f =
      Frequencies({0.0f, std::log(0.2f), std::log(0.1f)}, {.temperature = 1, .min_p = 0.15f});
  EXPECT_NEAR(f[0], 1 / 1.2, 0.01);
  EXPECT_EQ(f[2], 0);
}

TEST(Sample, DrawsByAscendingIdWhateverTheWeights) {
  // The uniform number picks from the cumulative sum in id order, so it can be recomputed.
  const std::vector<float> logits = {0.5f, 2.0f, 1.0f, 1.5f};
  for (int position = 0; position < 500; ++position) {
    double total = 0, sum = 0;
    for (float logit : logits) total += std::exp(logit);
    int32_t expected = 0;
    while ((sum += std::exp(logits[expected])) <= Uniform(3, position) * total) ++expected;
    EXPECT_EQ(TokenAt(logits, {.seed = 3, .temperature = 1, .top_p = 0.99999f}, position),
              expected);
  }
}

TEST(Sample, MissingIdsNeverComeOut) {
  std::vector<SamplingRow> rows(100, {.seed = 1, .temperature = 1});
  std::vector<float> logits;
  for (int i = 0; i < 100; ++i) {
    rows[i].position = i;
    for (const float logit : {0.0f, -9.0f, 50.0f, 1.0f}) logits.push_back(logit);
  }
  for (const int32_t token : SampleRows(logits, rows, {}, {2}).tokens) EXPECT_NE(token, 2);
}

TEST(Sample, BiasIsAddedFirst) {
  EXPECT_EQ(Edited({5, 0, 4}, {}, {{.token = 2, .bias = 1.5f}}), 2);
  EXPECT_EQ(Edited({5, 0, 4}, {}, {{.token = 0, .bias = -100}}), 2);
  // (1 + 3) / 2 is less than 2.5; 1 / 2 + 3 would be more.
  EXPECT_EQ(Edited({1, 2.5f}, {.repetition_penalty = 2}, {{.token = 0, .bias = 3, .in_prompt = 1}}),
            1);
}

TEST(Sample, PresenceAndFrequencyCountGeneratedTokensOnly) {
  const std::vector<float> logits = {5, 0, 4.5f};
  const SamplingRow frequency = {.frequency_penalty = 0.4f}, presence = {.presence_penalty = 0.4f};
  for (const SamplingRow& row : {frequency, presence}) {
    EXPECT_EQ(Edited(logits, row, {{.token = 0, .in_prompt = 1}}), 0);
    EXPECT_EQ(Edited(logits, row, {{.token = 0, .generated = 1}}), 0);
    EXPECT_EQ(Edited(logits, row, {{.token = 0, .generated = 2}}),
              row.frequency_penalty > 0 ? 2 : 0);
  }
}

TEST(Sample, RepetitionPenaltyKnowsTheSign) {
  const SamplingRow row = {.repetition_penalty = 2};
  EXPECT_EQ(Edited({5, -9, 3}, row, {{.token = 0, .in_prompt = 1}}), 2) << "divides above zero";
  EXPECT_EQ(Edited({-2, -9, -3}, row, {{.token = 0, .in_prompt = 1}}), 2) << "multiplies below";
  EXPECT_EQ(Edited({5, -9, 3}, row, {{.token = 0, .generated = 1}}), 2);
  EXPECT_EQ(Edited({5, -9, 3}, row, {{.token = 0}}), 0) << "neither in the prompt nor generated";
}

TEST(Sample, DraftsBeforeTheRowCountAsGenerated) {
  // Drafts 0 and 2 are token 0.
  const std::vector<LogitEdit> edits = {{.token = 0, .generated = 1, .drafted = 0b101}};
  std::vector<SamplingRow> rows(4, {.edits = 1, .frequency_penalty = 1});
  std::vector<float> logits;
  for (int d = 0; d < 4; ++d) {
    rows[d].drafts = d;
    for (const float logit : {5.0f, 2.5f}) logits.push_back(logit);
  }
  EXPECT_THAT(SampleRows(logits, rows, edits).tokens, ElementsAre(0, 0, 0, 1));
}

TEST(Sample, MaskedRowsCannotChooseTheToken) {
  const std::vector<LogitEdit> edits = {{.token = 0, .bias = 100, .masked_rows = 2}};
  std::vector<SamplingRow> rows(3, {.edits = 1});
  for (int d = 0; d < 3; ++d) rows[d].drafts = d;
  EXPECT_THAT(SampleRows({1, 0, 1, 0, 1, 0}, rows, edits).tokens, ElementsAre(1, 1, 0));
}

TEST(Sample, RowsUseTheirOwnEdits) {
  const std::vector<LogitEdit> edits = {{.token = 1, .bias = 9}, {.token = 2, .bias = 9}};
  const std::vector<SamplingRow> rows = {{.first_edit = 1, .edits = 1}, {}, {.edits = 1}};
  EXPECT_THAT(SampleRows({1, 0, 0, 1, 0, 0, 1, 0, 0}, rows, edits).tokens, ElementsAre(2, 0, 1));
}

TEST(Sample, BrokenLogitsAreNeverAToken) {
  for (const float broken : {NAN, -NAN, kInf}) {
    for (const float temperature : {0.0f, 1.0f}) {
      EXPECT_EQ(TokenAt({1, broken, 2}, {.temperature = temperature}), kBrokenLogit);
    }
    EXPECT_EQ(TokenAt({1, broken, 2}, {.forced = 0, .top_logprobs = 1}), kBrokenLogit);
  }
  EXPECT_EQ(TokenAt({-kInf, -kInf}, {.temperature = 1}), kNothingLeft);
  EXPECT_EQ(TokenAt({-kInf, -kInf}, {.forced = 1, .top_logprobs = 1}), kNothingLeft);
  EXPECT_EQ(SampleRows({0, 3}, {{}}, {}, {0, 1}).tokens[0], kNothingLeft);
  EXPECT_EQ(Edited({1, 3e38f, 2}, {.temperature = 1, .repetition_penalty = 0.01f},
                   {{.token = 1, .in_prompt = 1}}),
            kOverflow);
}

TEST(Sample, LogprobsAreOfTheRawLogits) {
  const std::vector<LogitEdit> edits = {{.token = 0, .bias = 50}};
  const Output out =
      SampleRows({1, 2, 2, 50, 1, 2, 2, 50},
                 {{.edits = 1, .top_logprobs = 2}, {.forced = 2, .top_logprobs = 0}}, edits, {3});
  const double z = std::exp(1) + 2 * std::exp(2);
  EXPECT_THAT(out.tokens, ElementsAre(0, 2));
  EXPECT_NEAR(out.logprobs[0], 1 - std::log(z), 1e-6);
  EXPECT_NEAR(out.logprobs[1], 2 - std::log(z), 1e-6);
  EXPECT_EQ(out.top_tokens[0], 1);
  EXPECT_EQ(out.top_tokens[1], 2);
  EXPECT_NEAR(out.top_logprobs[1], 2 - std::log(z), 1e-6);
  EXPECT_EQ(out.top_tokens[2], -1);
  EXPECT_EQ(out.top_tokens[kMaxTopLogprobs], -1);
}

TEST(Sample, ARowDependsOnNothingButItself) {
  std::mt19937 rng(7);
  constexpr int kRows = 20, kVocab = 3000;
  std::vector<float> logits(kRows * kVocab);
  for (float& logit : logits) logit = std::normal_distribution<float>(0, 3)(rng);
  std::vector<SamplingRow> rows;
  for (int r = 0; r < kRows; ++r) {
    rows.push_back({.seed = rng(),
                    .position = r,
                    .top_k = r % 3 * 40,
                    .temperature = 0.3f * (r % 4),
                    .top_p = r % 2 == 0 ? 0.8f : 1.0f});
  }
  const std::vector<int32_t> together = SampleRows(logits, rows, {}, {}, 2).tokens;
  EXPECT_EQ(SampleRows(logits, rows).tokens, together);
  for (int r = 0; r < kRows; ++r) {
    const auto row = logits.begin() + r * kVocab;
    EXPECT_EQ(TokenAt({row, row + kVocab}, rows[r], r), together[r]);
  }
}

}  // namespace
}  // namespace baleen::kernels
