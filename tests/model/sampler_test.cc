#include "model/sampler.h"

#include <cmath>
#include <limits>

#include "model/philox.h"
#include "tests/testing/status_matchers.h"

namespace baleen::model {
namespace {

using ::baleen::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr int kEos = 1;

Sampler MakeSampler(int limit, std::vector<int32_t> missing = {}) {
  return Sampler({.limit = limit, .missing = std::move(missing), .eos_ids = {kEos}});
}

// How often each token comes out of `draws` draws at consecutive positions, as a fraction.
std::vector<double> Frequencies(const std::vector<float>& logits, SamplingParams params,
                                int draws = 40000) {
  Sampler sampler = MakeSampler(static_cast<int>(logits.size()));
  params.seed = 99;
  std::vector<double> counts(logits.size());
  for (int i = 0; i < draws; ++i) ++counts[sampler.Sample(logits, params, {}, i).value()];
  for (double& count : counts) count /= draws;
  return counts;
}

int32_t Greedy(const std::vector<float>& logits, SamplingParams params,
               const TokenHistory& history = {}) {
  params.temperature = 0;
  return MakeSampler(static_cast<int>(logits.size())).Sample(logits, params, history, 0).value();
}

// Known answers of the reference implementation (Random123, kat_vectors).
TEST(Philox, KnownAnswers) {
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(Philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(
      Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(UniformAt, IsUniformAndDependsOnSeedAndPosition) {
  double sum = 0, square = 0;
  constexpr int kDraws = 100000;
  for (int i = 0; i < kDraws; ++i) {
    const double u = UniformAt(7, i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    square += u * u;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.005);
  EXPECT_NEAR(square / kDraws, 1.0 / 3, 0.005);
  EXPECT_NE(UniformAt(7, 1), UniformAt(8, 1));
  EXPECT_NE(UniformAt(7, 1), UniformAt(uint64_t{7} << 32, 1));
  EXPECT_NE(UniformAt(7, 1), UniformAt(7, uint64_t{1} << 32));
}

TEST(Sampler, GreedyTakesTheLowestOfEqualLogits) {
  EXPECT_EQ(Greedy({1, 0, 3, 3, 2}, {}), 2);
  EXPECT_EQ(Greedy({-kInf, -kInf, -5, -kInf}, {}), 2);
}

TEST(Sampler, TheLawIsTheSoftmax) {
  const auto f = Frequencies({0.0f, 1.0f, 2.0f, -kInf}, {});
  const double z = 1 + std::exp(1) + std::exp(2);
  EXPECT_NEAR(f[0], 1 / z, 0.01);
  EXPECT_NEAR(f[1], std::exp(1) / z, 0.01);
  EXPECT_NEAR(f[2], std::exp(2) / z, 0.01);
  EXPECT_EQ(f[3], 0);
}

TEST(Sampler, TemperatureDivides) {
  const auto f = Frequencies({0.0f, 1.0f}, {.temperature = 0.5f});
  EXPECT_NEAR(f[1], std::exp(2) / (1 + std::exp(2)), 0.01);
}

TEST(Sampler, TopKKeepsTheLargestAndTheLowerIdOfATie) {
  const auto f = Frequencies({1, 2, 1, 1, 3}, {.top_k = 3});
  EXPECT_GT(f[0], 0);
  EXPECT_EQ(f[2], 0);
  EXPECT_EQ(f[3], 0);
  EXPECT_NEAR(f[4], std::exp(3) / (std::exp(1) + std::exp(2) + std::exp(3)), 0.01);
}

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesIt) {
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

TEST(Sampler, TopPLooksAtWhatTopKLeft) {
  const std::vector<float> logits = {std::log(0.4f), std::log(0.3f), std::log(0.3f)};
  // Of the two left, the first has 4/7 of the mass.
  EXPECT_THAT(Frequencies(logits, {.top_p = 0.55f, .top_k = 2}), ElementsAre(1, 0, 0));
}

TEST(Sampler, TopPOfManyCandidatesSortsOnlyWhatItNeeds) {
  std::vector<float> logits(20000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = std::sin(static_cast<float>(i));
  Sampler sampler = MakeSampler(static_cast<int>(logits.size()));
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
    const int32_t token = sampler.Sample(logits, {.top_p = 0.3f, .seed = 4}, {}, i).value();
    EXPECT_GE(logits[token], sorted[count]);
  }
}

TEST(Sampler, MinPIsRelativeToTheLargest) {
  const auto f = Frequencies({0.0f, std::log(0.2f), std::log(0.1f)}, {.min_p = 0.15f});
  EXPECT_NEAR(f[0], 1 / 1.2, 0.01);
  EXPECT_EQ(f[2], 0);
}

TEST(Sampler, DrawsByAscendingIdWhateverTheWeights) {
  // The uniform number picks from the cumulative sum in id order, so it can be recomputed.
  const std::vector<float> logits = {0.5f, 2.0f, 1.0f, 1.5f};
  Sampler sampler = MakeSampler(4);
  for (int position = 0; position < 500; ++position) {
    double total = 0, sum = 0;
    for (float logit : logits) total += std::exp(logit);
    int32_t expected = 0;
    while ((sum += std::exp(logits[expected])) <= UniformAt(3, position) * total) ++expected;
    EXPECT_EQ(sampler.Sample(logits, {.top_p = 0.9999f, .seed = 3}, {}, position).value(),
              expected);
  }
}

TEST(Sampler, IdsWithoutATokenNeverComeOut) {
  Sampler sampler = MakeSampler(4, /*missing=*/{2});
  const std::vector<float> logits = {0, -9, 50, 1, 90, NAN};
  EXPECT_EQ(sampler.Sample(logits, {.temperature = 0}, {}, 0).value(), 3);
  for (int i = 0; i < 100; ++i) {
    const int32_t token = sampler.Sample(logits, {.logit_bias = {{2, 100}}}, {}, i).value();
    EXPECT_TRUE(token == 0 || token == 3 || token == 1);
  }
}

TEST(Sampler, LogitBiasIsAdded) {
  EXPECT_EQ(Greedy({5, 0, 4}, {.logit_bias = {{2, 1.5f}}}), 2);
  EXPECT_EQ(Greedy({5, 0, 4}, {.logit_bias = {{0, -100}}}), 2);
}

TEST(Sampler, PresenceAndFrequencyCountGeneratedTokensOnly) {
  const SamplingParams frequency{.frequency_penalty = 0.4f}, presence{.presence_penalty = 0.4f};
  const std::vector<float> logits = {5, 0, 4.5f};
  for (const SamplingParams& params : {frequency, presence}) {
    const std::vector<int32_t> prompt = {0, 0, 0};
    TokenHistory history(params, prompt);
    EXPECT_EQ(Greedy(logits, params, history), 0) << "the prompt does not count";
    history.Add(0);
    EXPECT_EQ(Greedy(logits, params, history), 0);
    history.Add(0);
    EXPECT_EQ(Greedy(logits, params, history), params.frequency_penalty > 0 ? 2 : 0);
  }
}

TEST(Sampler, RepetitionPenaltyCountsThePromptAndTheSign) {
  const SamplingParams params{.repetition_penalty = 2};
  const std::vector<int32_t> prompt = {0};
  EXPECT_EQ(Greedy({5, -9, 3}, params, TokenHistory(params, prompt)), 2) << "divides above zero";
  EXPECT_EQ(Greedy({-2, -9, -3}, params, TokenHistory(params, prompt)), 2) << "multiplies below";
  TokenHistory history(params, {});
  EXPECT_EQ(Greedy({5, -9, 3}, params, history), 0);
  history.Add(0);
  EXPECT_EQ(Greedy({5, -9, 3}, params, history), 2);
}

TEST(Sampler, EosAndStopIdsWaitForTheMinimum) {
  const SamplingParams params{.min_new_tokens = 2, .stop_token_ids = {2}};
  TokenHistory history(params, {});
  const std::vector<float> logits = {1, 9, 8};
  EXPECT_EQ(Greedy(logits, params, history), 0);
  history.Add(0);
  EXPECT_EQ(Greedy(logits, params, history), 0);
  history.Add(0);
  EXPECT_EQ(Greedy(logits, params, history), 1);
}

TEST(Sampler, BrokenLogitsAreAnErrorNeverAToken) {
  Sampler sampler = MakeSampler(3);
  for (float broken : {NAN, -NAN, kInf}) {
    for (float temperature : {0.0f, 1.0f}) {
      const std::vector<float> logits = {1, broken, 2};
      EXPECT_THAT(sampler.Sample(logits, {.temperature = temperature}, {}, 0),
                  StatusIs(absl::StatusCode::kInternal, HasSubstr("logit of token 1")));
      EXPECT_FALSE(sampler.Logprobs(logits, 0, 1).ok());
    }
  }
  EXPECT_THAT(sampler.Sample(std::vector<float>(3, -kInf), {}, {}, 0),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("no token is left")));
}

TEST(Sampler, APenaltyThatOverflowsIsAnErrorNeverAToken) {
  const model::SamplingParams params{.temperature = 1, .repetition_penalty = 0.01f};
  TokenHistory history(params, std::vector<int32_t>{1});
  const std::vector<float> logits = {1, 3e38f, 2};
  EXPECT_THAT(MakeSampler(3).Sample(logits, params, history, 0),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("logit of token 1 infinite")));
}

TEST(Sampler, LogprobsAreOfTheRawLogits) {
  Sampler sampler = MakeSampler(4, {3});
  const std::vector<float> logits = {1, 2, 2, 50, 99};
  const double z = std::exp(1) + 2 * std::exp(2);
  const TokenLogprobs entry = sampler.Logprobs(logits, 0, 2).value();
  EXPECT_EQ(entry.token, 0);
  EXPECT_NEAR(entry.logprob, 1 - std::log(z), 1e-5);
  EXPECT_THAT(entry.top_tokens, ElementsAre(1, 2));
  EXPECT_NEAR(entry.top_logprobs[0], 2 - std::log(z), 1e-5);
  EXPECT_THAT(sampler.Logprobs(logits, 0, 0).value().top_tokens, ElementsAre());
  EXPECT_THAT(sampler.Logprobs(logits, 0, 20).value().top_tokens, ElementsAre(1, 2, 0));
}

TEST(Sampler, TheResultDependsOnNothingButSeedAndPosition) {
  std::vector<float> logits(1000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = std::cos(3.0f * static_cast<float>(i));
  const SamplingParams params{.top_p = 0.9f, .seed = 5};
  Sampler used = MakeSampler(1000);
  for (int i = 0; i < 50; ++i) used.Sample(logits, {.top_k = 3}, {}, i).value();
  for (int i = 0; i < 50; ++i) {
    Sampler fresh = MakeSampler(1000);
    EXPECT_EQ(used.Sample(logits, params, {}, i).value(),
              fresh.Sample(logits, params, {}, i).value());
  }
}

}  // namespace
}  // namespace baleen::model
