#include "engine/speculation.h"

#include <map>
#include <random>

#include "model/row_sampler.h"
#include "tests/testing/status_matchers.h"

namespace baleen::engine {
namespace {

// Walks with fixed choices; the one with token -1 fails.
struct Script {
  std::vector<int32_t> tokens;
  int32_t end = -2;
  std::vector<int> asked;

  absl::StatusOr<int> Walk(std::vector<int32_t> drafts) {
    return WalkDrafts(drafts, [this](int row) -> absl::StatusOr<Choice> {
      asked.push_back(row);
      if (tokens[row] == -1) return absl::InternalError("nan");
      return Choice{.token = tokens[row], .ends = tokens[row] == end};
    });
  }
};

TEST(WalkDrafts, EmitsOneTokenWithoutDrafts) {
  Script script{.tokens = {4}};
  const auto walk = script.Walk({});
  EXPECT_EQ(*walk, 1);
}

TEST(WalkDrafts, StopsAtTheFirstMiss) {
  Script script{.tokens = {4, 5, 6, 7}};
  const auto walk = script.Walk({4, 9, 6});
  EXPECT_EQ(*walk, 2);
  EXPECT_THAT(script.asked, ::testing::ElementsAre(0, 1)) << "later rows must not be sampled";
}

TEST(WalkDrafts, TakesTheBonusTokenAfterAllHits) {
  Script script{.tokens = {4, 5, 6, 7}};
  const auto walk = script.Walk({4, 5, 6});
  EXPECT_EQ(*walk, 4);
}

TEST(WalkDrafts, AnEndInsideTheAcceptedRunCutsIt) {
  Script script{.tokens = {4, 5, 6, 7}, .end = 5};
  const auto walk = script.Walk({4, 5, 6});
  EXPECT_EQ(*walk, 2);
}

TEST(WalkDrafts, PassesErrorsOn) {
  Script script{.tokens = {4, -1}};
  EXPECT_FALSE(script.Walk({4}).ok());
}

// Law of sequences of `length` tokens over a random Markov chain, decoded with drafts. The law of
// the next token after history h is logits_[hash of h].
class Law {
 public:
  static constexpr int kVocab = 5;
  static constexpr int kLength = 4;

  explicit Law(uint32_t seed) : rng_(seed) {
    std::normal_distribution<float> normal(0, 1.5f);
    for (auto& row : logits_) {
      for (float& logit : row) logit = normal(rng_);
    }
    for (auto& row : drafts_) row = static_cast<int32_t>(rng_() % kVocab);
  }
  std::span<const float> After(const std::vector<int32_t>& tokens) const {
    return logits_[Index(tokens)];
  }
  int32_t DraftAfter(const std::vector<int32_t>& tokens) const { return drafts_[Index(tokens)]; }

  double Probability(const std::vector<int32_t>& tokens) const {
    double p = 1;
    std::vector<int32_t> prefix;
    for (int32_t token : tokens) {
      double sum = 0;
      for (float logit : After(prefix)) sum += std::exp(logit);
      p *= std::exp(After(prefix)[token]) / sum;
      prefix.push_back(token);
    }
    return p;
  }

 private:
  static size_t Index(const std::vector<int32_t>& tokens) {
    size_t index = 0;
    for (int32_t token : tokens) index = index * (kVocab + 1) + token + 1;
    return index % kStates;
  }
  static constexpr size_t kStates = 977;
  std::mt19937 rng_;
  std::array<std::array<float, kVocab>, kStates> logits_;
  std::array<int32_t, kStates> drafts_;
};

// One decoded sequence under `seed`, with `k` drafts a step.
std::vector<int32_t> Decode(const Law& law, int k, uint64_t seed) {
  static kernels::Backend& backend = *kernels::MakeCpuBackend(1).release();
  static const model::SamplingLimits limits = {
      .max_rows = 1, .max_sequences = 1, .vocabulary = {.limit = Law::kVocab}};
  static model::RowSampler sampler(backend, limits);
  static model::SamplingBatch sampling(backend, limits);
  const model::SamplingParams params{.seed = seed};
  const model::TokenHistory history;
  std::vector<int32_t> tokens;
  while (tokens.size() < Law::kLength) {
    std::vector<int32_t> drafts, ahead = tokens;
    for (int i = 0; i < k; ++i) {
      drafts.push_back(law.DraftAfter(ahead));
      ahead.push_back(drafts.back());
    }
    EXPECT_TRUE(WalkDrafts(drafts, [&](int) -> absl::StatusOr<Choice> {
                  const auto after = law.After(tokens);
                  std::vector<float> logits(after.begin(), after.end());
                  sampling.Clear();
                  sampling.AddSequence(params, history, int(tokens.size()), {});
                  sampler.Upload(sampling);
                  sampler.Sample({.data = logits.data(), .rows = 1, .cols = Law::kVocab}, 0);
                  sampler.Download(sampling);
                  tokens.push_back(sampling.TokenOf(0));
                  return Choice{tokens.back(), tokens.size() == Law::kLength};
                }).ok());
  }
  return tokens;
}

TEST(WalkDrafts, OutputLawIsTheTargetsForAnyDrafts) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  const Law law(seed);
  constexpr int kTrials = 60000;
  for (int k : {0, 1, 3}) {
    std::map<std::vector<int32_t>, int> counts;
    for (int i = 0; i < kTrials; ++i) ++counts[Decode(law, k, uint64_t{seed} << 20 | i)];
    // Chi-square over the outcomes that are expected often enough, the rest as one.
    double chi = 0, rest_expected = kTrials;
    int cells = 0, rest = kTrials;
    for (int code = 0; code < 625; ++code) {
      const std::vector<int32_t> tokens = {code / 125, code / 25 % 5, code / 5 % 5, code % 5};
      const double expected = law.Probability(tokens) * kTrials;
      if (expected < 20) continue;
      const double off = counts[tokens] - expected;
      chi += off * off / expected;
      rest_expected -= expected;
      rest -= counts[tokens];
      ++cells;
    }
    if (rest_expected > 20) {
      chi += (rest - rest_expected) * (rest - rest_expected) / rest_expected;
      ++cells;
    }
    // Mean cells - 1, standard deviation sqrt(2 cells): six of them happen by chance once in 1e8.
    EXPECT_LT(chi, cells + 6 * std::sqrt(2.0 * cells)) << "drafts " << k;
  }
}

TEST(WalkDrafts, TheSameSeedGivesTheSameTokensForAnyNumberOfDrafts) {
  const Law law(17);
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    const auto plain = Decode(law, 0, seed);
    for (int k : {1, 2, 3}) ASSERT_EQ(Decode(law, k, seed), plain);
  }
}

}  // namespace
}  // namespace baleen::engine
