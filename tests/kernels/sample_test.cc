#include <algorithm>
#include <cmath>

#include "gmock/gmock.h"
#include "kernels/sampling_math.h"
#include "kernels/sampling_rows.h"

namespace baleen::kernels {
namespace {

using ::baleen::kernels::testing::RandomFloats;
using ::baleen::kernels::testing::Sampled;
using ::baleen::kernels::testing::SampleRows;
using ::baleen::kernels::testing::TestMatrix;
using ::baleen::kernels::testing::TestRow;
using ::testing::ElementsAre;

constexpr float kInf = std::numeric_limits<float>::infinity();

// As many rows of the same logits; NaN lies between them.
TestMatrix Repeat(const std::vector<float>& logits, int rows) {
  TestMatrix m(rows, static_cast<int>(logits.size()), DType::kF32, /*padding=*/3);
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < m.cols(); ++i) m.Set(r, i, logits[i]);
  }
  return m;
}

// The same logits for each row. They are what they were afterwards.
Sampled Sample(const std::vector<float>& logits, const std::vector<TestRow>& rows,
               const std::vector<int32_t>& missing = {}, int threads = 1) {
  TestMatrix m = Repeat(logits, static_cast<int>(rows.size()));
  std::vector<float> after = logits;
  for (int32_t id : missing) after[id] = -kInf;
  Sampled out = SampleRows(*MakeCpuBackend(threads), m, rows, missing);
  EXPECT_TRUE(m.SameBytes(Repeat(after, m.rows())));
  return out;
}

int32_t SampleOne(const std::vector<float>& logits, const SamplingRow& row,
                  std::vector<LogitEdit> edits = {}) {
  return Sample(logits, {{row, std::move(edits)}}).tokens[0];
}

// One row for each position.
std::vector<TestRow> Positions(SamplingRow row, int count) {
  std::vector<TestRow> rows;
  for (row.position = 0; row.position < count; ++row.position) rows.push_back({row, {}});
  return rows;
}

// How often each token comes out of 40,000 draws at consecutive positions, as a fraction.
std::vector<double> Frequencies(const std::vector<float>& logits, SamplingRow row) {
  constexpr int kDraws = 40000;
  row.seed = 99;
  if (row.temperature == 0) row.temperature = 1;
  std::vector<double> counts(logits.size());
  for (int32_t token : Sample(logits, Positions(row, kDraws)).tokens) ++counts[token];
  for (double& count : counts) count /= kDraws;
  return counts;
}

TEST(Sample, GreedyTakesTheLowestOfEqualLogits) {
  EXPECT_EQ(SampleOne({1, 0, 3, 3, 2}, {}), 2);
  EXPECT_EQ(SampleOne({-kInf, -kInf, -5, -kInf}, {}), 2);
  EXPECT_EQ(SampleOne({-1, -0.0f, 0.0f}, {}), 1);
}

TEST(Sample, WithoutRowsAllAreGreedy) {
  TestMatrix m = Repeat({1, 5, 2}, 2);
  int32_t tokens[2];
  MakeCpuBackend(1)->Sample({.logits = m.view(), .limit = 3, .tokens = tokens});
  EXPECT_THAT(tokens, ElementsAre(1, 1));
}

TEST(Sample, NoRowsIsLegal) { EXPECT_TRUE(Sample({1, 2}, {}).tokens.empty()); }

TEST(Sample, TheLawIsTheSoftmax) {
  const auto f = Frequencies({0.0f, 1.0f, 2.0f, -kInf}, {});
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
  const auto f = Frequencies({1, 2, 1, 1, 3}, {.top_k = 3});
  EXPECT_GT(f[0], 0);
  EXPECT_EQ(f[2], 0);
  EXPECT_EQ(f[3], 0);
  EXPECT_NEAR(f[4], std::exp(3) / (std::exp(1) + std::exp(2) + std::exp(3)), 0.01);
}

TEST(Sample, TopPKeepsTheSmallestSetThatReachesIt) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.5f), std::log(0.15f),
                                     std::log(0.25f)};
  EXPECT_THAT(Frequencies(logits, {.top_p = 0.3f}), ElementsAre(0, 1, 0, 0));
  auto f = Frequencies(logits, {.top_p = 0.7f});
  EXPECT_NEAR(f[1], 0.5 / 0.75, 0.01);
  EXPECT_NEAR(f[3], 0.25 / 0.75, 0.01);
  EXPECT_EQ(f[0] + f[2], 0);
  f = Frequencies(logits, {.top_p = 0.8f});
  EXPECT_EQ(f[0], 0);
  EXPECT_NEAR(f[2], 0.15 / 0.9, 0.01);
}

TEST(Sample, TopPOfEqualLogitsKeepsTheLowerIds) {
  const auto f = Frequencies({2, 2, 2, 2}, {.top_p = 0.5f});
  EXPECT_NEAR(f[0], 0.5, 0.01);
  EXPECT_NEAR(f[1], 0.5, 0.01);
  EXPECT_EQ(f[2] + f[3], 0);
}

TEST(Sample, TopPLooksAtWhatTopKLeft) {
  const std::vector<float> logits = {std::log(0.4f), std::log(0.3f), std::log(0.3f)};
  // Of the two left, the first has 4/7 of the mass.
  EXPECT_THAT(Frequencies(logits, {.top_k = 2, .top_p = 0.55f}), ElementsAre(1, 0, 0));
  EXPECT_EQ(Frequencies(logits, {.top_k = 2, .top_p = 0.999f})[2], 0);
}

// For sets of few and of many of 20,000 candidates.
TEST(Sample, TopPOfManyCandidatesKeepsTheHeaviest) {
  std::vector<float> logits(20000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = 4 * std::sin(static_cast<float>(i));
  std::vector<float> sorted = logits;
  std::sort(sorted.rbegin(), sorted.rend());
  double total = 0;
  for (float logit : logits) total += std::exp(logit);
  for (float top_p : {0.01f, 0.3f, 0.9f}) {
    double mass = 0;
    size_t count = 0;
    while (mass < top_p * total) mass += std::exp(sorted[count++]);
    const SamplingRow row = {.seed = 4, .temperature = 1, .top_p = top_p};
    for (int32_t token : Sample(logits, Positions(row, 100)).tokens) {
      EXPECT_GE(logits[token], sorted[count]) << top_p;
    }
  }
}

TEST(Sample, MinPIsRelativeToTheLargest) {
  const auto f = Frequencies({0.0f, std::log(0.2f), std::log(0.1f)}, {.min_p = 0.15f});
  EXPECT_NEAR(f[0], 1 / 1.2, 0.01);
  EXPECT_EQ(f[2], 0);
}

// The uniform number picks from the cumulative sum in id order, so it can be recomputed.
TEST(Sample, DrawsByAscendingIdWhateverTheWeights) {
  const std::vector<float> logits = {0.5f, 2.0f, 1.0f, 1.5f};
  double total = 0;
  for (float logit : logits) total += std::exp(logit);
  for (float top_p : {1.0f, 0.9999f}) {
    const auto tokens =
        Sample(logits, Positions({.seed = 3, .temperature = 1, .top_p = top_p}, 500)).tokens;
    for (int position = 0; position < 500; ++position) {
      double sum = 0;
      int32_t expected = 0;
      while ((sum += std::exp(logits[expected])) <= UniformAt(3, position) * total) ++expected;
      EXPECT_EQ(tokens[position], expected);
    }
  }
}

TEST(Sample, IdsWithoutATokenNeverComeOut) {
  const std::vector<float> logits = {0, -9, 50, 1};
  EXPECT_EQ(Sample(logits, {{}}, /*missing=*/{2}).tokens[0], 3);
  std::vector<TestRow> rows = Positions({.temperature = 1}, 100);
  for (TestRow& row : rows) row.edits = {{.token = 2, .bias = 100}};
  for (int32_t token : Sample(logits, rows, {2}).tokens) EXPECT_NE(token, 2);
}

TEST(Sample, ReadsNothingFromTheLimitOn) {
  TestMatrix m = Repeat({0, 4, 1, 90, NAN}, 1);
  int32_t token;
  MakeCpuBackend(1)->Sample({.logits = m.view(), .limit = 3, .tokens = &token});
  EXPECT_EQ(token, 1);
}

TEST(Sample, LogitBiasIsAdded) {
  EXPECT_EQ(SampleOne({5, 0, 4}, {}, {{.token = 2, .bias = 1.5f}}), 2);
  EXPECT_EQ(SampleOne({5, 0, 4}, {}, {{.token = 0, .bias = -100}}), 2);
}

TEST(Sample, PresenceAndFrequencyCountGeneratedTokensOnly) {
  const SamplingRow frequency{.frequency_penalty = 0.4f}, presence{.presence_penalty = 0.4f};
  const std::vector<float> logits = {5, 0, 4.5f};
  for (const SamplingRow& row : {frequency, presence}) {
    const auto generated = [&](int32_t times) {
      return SampleOne(logits, row, {{.token = 0, .generated = times, .in_prompt = 1}});
    };
    EXPECT_EQ(generated(0), 0) << "the prompt does not count";
    EXPECT_EQ(generated(1), 0);
    EXPECT_EQ(generated(2), row.frequency_penalty > 0 ? 2 : 0);
  }
}

TEST(Sample, RepetitionPenaltyCountsThePromptAndTheSign) {
  const SamplingRow row{.repetition_penalty = 2};
  const LogitEdit prompt = {.in_prompt = 1};
  EXPECT_EQ(SampleOne({5, -9, 3}, row, {prompt}), 2) << "divides above zero";
  EXPECT_EQ(SampleOne({-2, -9, -3}, row, {prompt}), 2) << "multiplies below";
  EXPECT_EQ(SampleOne({5, -9, 3}, row, {LogitEdit{}}), 0);
  EXPECT_EQ(SampleOne({5, -9, 3}, row, {{.generated = 1}}), 2);
}

// A verify step: rows of one sequence share its edits.
TEST(Sample, DraftsBeforeARowCountAsGenerated) {
  const std::vector<float> logits = {5, 4.5f, 0};
  const std::vector<LogitEdit> edits = {{.token = 0, .drafted = 0b01},
                                        {.token = 1, .drafted = 0b10}};
  std::vector<TestRow> rows;
  for (int drafts = 0; drafts < 3; ++drafts) {
    rows.push_back({{.drafts = drafts, .presence_penalty = 1}, edits});
  }
  EXPECT_THAT(Sample(logits, rows).tokens, ElementsAre(0, 1, 0));
}

TEST(Sample, EosAndStopIdsWaitForTheMinimum) {
  std::vector<TestRow> rows;
  for (int drafts = 0; drafts < 4; ++drafts) {
    rows.push_back(
        {{.drafts = drafts}, {{.token = 1, .masked_rows = 2}, {.token = 2, .masked_rows = 2}}});
  }
  EXPECT_THAT(Sample({1, 9, 8}, rows).tokens, ElementsAre(0, 0, 1, 1));
}

TEST(Sample, ABrokenLogitGivesNoToken) {
  for (float broken : {NAN, -NAN, kInf}) {
    const Sampled out = Sample({1, broken, 2}, {{{.top_logprobs = 2}, {}},
                                                {{.top_logprobs = 2, .temperature = 1}, {}},
                                                {{.forced = 0, .top_logprobs = 2}, {}}});
    EXPECT_THAT(out.tokens, ElementsAre(kBrokenLogit, kBrokenLogit, kBrokenLogit));
    EXPECT_EQ(out.top_tokens[0], Sampled::kUnwritten);
    EXPECT_EQ(Sample({1, broken, 2}, {{}}, /*missing=*/{1}).tokens[0], 2);
  }
}

TEST(Sample, NothingLeftGivesNoToken) {
  for (float temperature : {0.0f, 1.0f}) {
    EXPECT_EQ(SampleOne({-kInf, -kInf}, {.temperature = temperature}), kNothingLeft);
    EXPECT_EQ(SampleOne({-kInf, 3}, {.temperature = temperature}, {{.token = 1, .masked_rows = 1}}),
              kNothingLeft);
  }
  EXPECT_EQ(SampleOne({-kInf, -kInf}, {.forced = 1}), kNothingLeft);
}

TEST(Sample, APenaltyThatOverflowsGivesNoToken) {
  const LogitEdit prompt = {.token = 1, .in_prompt = 1};
  EXPECT_EQ(SampleOne({1, 3e38f, 2}, {.temperature = 1, .repetition_penalty = 0.01f}, {prompt}),
            kOverflow);
}

TEST(Sample, LogprobsAreOfTheRawLogits) {
  const std::vector<LogitEdit> bias = {{.token = 0, .bias = 100}};
  const Sampled out = Sample({1, 2, 2, 50},
                             {{{.top_logprobs = 2, .temperature = 0.1f}, bias},
                              {{.top_logprobs = 0}, bias},
                              {{.top_logprobs = 20}, bias},
                              {{}, bias}},
                             /*missing=*/{3});
  const double z = std::exp(1) + 2 * std::exp(2);
  EXPECT_THAT(out.tokens, ElementsAre(0, 0, 0, 0));
  EXPECT_NEAR(out.logprobs[0], 1 - std::log(z), 1e-6);
  EXPECT_THAT(out.Top(0), ElementsAre(1, 2));
  EXPECT_NEAR(out.top_logprobs[0], 2 - std::log(z), 1e-6);
  EXPECT_EQ(out.logprobs[1], out.logprobs[0]);
  EXPECT_THAT(out.Top(1), ElementsAre());
  EXPECT_THAT(out.Top(2), ElementsAre(1, 2, 0));
  EXPECT_EQ(out.top_tokens[2 * kMaxTopLogprobs + 3], -1);
  EXPECT_TRUE(std::isnan(out.logprobs[3])) << "not wanted, not written";
}

TEST(Sample, AForcedTokenHasItsLogprobWhateverItsChance) {
  const Sampled out = Sample({1, 2, -kInf}, {{{.forced = 0, .top_logprobs = 0}, {{.token = 1}}},
                                             {{.forced = 2, .top_logprobs = 1}, {}}});
  EXPECT_THAT(out.tokens, ElementsAre(0, 2));
  EXPECT_NEAR(out.logprobs[0], -std::log1p(std::exp(1)), 1e-6);
  EXPECT_EQ(out.logprobs[1], -kInf);
  EXPECT_THAT(out.Top(1), ElementsAre(1));
}

TEST(Sample, LogprobsOfALargeVocabularyAreExact) {
  const std::vector<float> logits = RandomFloats(129280, 3);
  double z = 0;
  for (float logit : logits) z += std::exp(static_cast<double>(logit));
  const Sampled out = Sample(logits, {{{.top_logprobs = 20, .temperature = 1}, {}}});
  EXPECT_NEAR(out.logprobs[0], logits[out.tokens[0]] - std::log(z), 2e-6);
  std::vector<float> sorted = logits;
  std::sort(sorted.rbegin(), sorted.rend());
  for (int i = 0; i < kMaxTopLogprobs; ++i) {
    EXPECT_EQ(logits[out.top_tokens[i]], sorted[i]);
    EXPECT_NEAR(out.top_logprobs[i], sorted[i] - std::log(z), 2e-6);
  }
}

TestRow RandomRow(std::mt19937& rng, int limit) {
  TestRow one = {{.seed = rng(),
                  .position = static_cast<int32_t>(rng() % 1000),
                  .drafts = static_cast<int32_t>(rng() % 4),
                  .top_logprobs = static_cast<int32_t>(rng() % 22) - 1,
                  .top_k = static_cast<int32_t>(rng() % 3 * 40),
                  .temperature = static_cast<float>(rng() % 4) * 0.5f,
                  .top_p = 1.0f - static_cast<float>(rng() % 3) * 0.3f,
                  .presence_penalty = 0.5f},
                 {}};
  for (int i = 0; i < static_cast<int>(rng() % 3) * 20; ++i) {
    one.edits.push_back({.token = i * (limit / 64), .bias = 2, .drafted = uint16_t(rng() % 8)});
  }
  return one;
}

TEST(Sample, ARowDependsOnNothingButItself) {
  constexpr int kRows = 33, kLimit = 5000;
  std::mt19937 rng(12);
  std::vector<TestRow> rows;
  for (int r = 0; r < kRows; ++r) rows.push_back(RandomRow(rng, kLimit));
  TestMatrix m = TestMatrix::Random(kRows, kLimit, 5);
  const TestMatrix before = m;
  const Sampled batch = SampleRows(*MakeCpuBackend(2), m, rows);
  const Sampled one_thread = SampleRows(*MakeCpuBackend(1), m, rows);
  EXPECT_TRUE(m.SameBytes(before));
  EXPECT_EQ(one_thread.tokens, batch.tokens);
  EXPECT_EQ(one_thread.top_tokens, batch.top_tokens);
  for (int r = 0; r < kRows; ++r) {
    const float* row = m.view().row<float>(r);
    const Sampled alone = Sample(std::vector<float>(row, row + kLimit), {rows[r]});
    EXPECT_EQ(alone.tokens[0], batch.tokens[r]);
    EXPECT_EQ(alone.Top(0), batch.Top(r));
    if (rows[r].row.top_logprobs < 0) continue;
    EXPECT_EQ(alone.logprobs[0], batch.logprobs[r]);
  }
}

}  // namespace
}  // namespace baleen::kernels
