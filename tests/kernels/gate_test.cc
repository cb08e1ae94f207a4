#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/testing.h"

namespace baleen::kernels {
namespace {

using testing::RandomFloats;

struct Choice {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

struct Shape {
  int experts, groups, topk_groups, topk;
};

Choice Choose(const std::vector<float>& logits, const std::vector<float>& bias, const Shape& s,
              bool normalize = true, float scale = 2.5f) {
  const int rows = int(logits.size()) / s.experts;
  Choice c{std::vector<int32_t>(rows * s.topk, -9), std::vector<float>(rows * s.topk, NAN)};
  MakeCpuBackend(2)->Gate({logits.data(), bias.data(), rows, s.experts, s.groups, s.topk_groups,
                           s.topk, normalize, scale, c.ids.data(), c.weights.data()});
  return c;
}

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// Section 3.7 with full sorts.
std::vector<int> Reference(const float* logits, const std::vector<float>& bias, const Shape& s) {
  const int width = s.experts / s.groups;
  std::vector<double> biased(s.experts), group(s.groups);
  for (int e = 0; e < s.experts; ++e) biased[e] = Sigmoid(logits[e]) + bias[e];
  for (int g = 0; g < s.groups; ++g) {
    std::vector<double> b(biased.begin() + g * width, biased.begin() + (g + 1) * width);
    std::sort(b.rbegin(), b.rend());
    group[g] = b[0] + (width > 1 ? b[1] : 0);
  }
  const auto ranking = [](const std::vector<double>& v) {
    std::vector<int> order(v.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return v[a] > v[b]; });
    return order;
  };
  std::vector<int> groups = ranking(group);
  for (size_t i = s.topk_groups; i < groups.size(); ++i) {
    std::fill_n(biased.begin() + groups[i] * width, width, -INFINITY);
  }
  std::vector<int> chosen = ranking(biased);
  chosen.resize(s.topk);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

TEST(Gate, EqualsTheFormula) {
  for (const Shape& s :
       {Shape{256, 8, 4, 8}, Shape{16, 4, 2, 4}, Shape{8, 1, 1, 3}, Shape{8, 8, 5, 2}}) {
    const int rows = 40;
    const std::vector<float> logits = RandomFloats(size_t(rows) * s.experts, s.experts);
    std::vector<float> bias = RandomFloats(s.experts, 2);
    const Choice c = Choose(logits, bias, s);
    for (int r = 0; r < rows; ++r) {
      const std::vector<int> want = Reference(&logits[r * s.experts], bias, s);
      double sum = 0;
      for (int e : want) sum += Sigmoid(logits[r * s.experts + e]);
      for (int j = 0; j < s.topk; ++j) {
        ASSERT_EQ(c.ids[r * s.topk + j], want[j]);
        ASSERT_NEAR(c.weights[r * s.topk + j], 2.5 * Sigmoid(logits[r * s.experts + want[j]]) / sum,
                    1e-6);
      }
    }
  }
}

TEST(Gate, BiasChoosesButDoesNotWeigh) {
  const std::vector<float> logits = {0, 1, 2, 3};
  const Choice c = Choose(logits, {10, 0, 0, 0}, {4, 1, 1, 2});
  EXPECT_EQ(c.ids, (std::vector<int32_t>{0, 3}));
  EXPECT_NEAR(c.weights[0], 2.5 * Sigmoid(0) / (Sigmoid(0) + Sigmoid(3)), 1e-6);
  const Choice raw = Choose(logits, {10, 0, 0, 0}, {4, 1, 1, 2}, false, 1.0f);
  EXPECT_NEAR(raw.weights[1], Sigmoid(3), 1e-6);
}

TEST(Gate, MaskedGroupsStayOutEvenWhenAllBiasesAreNegative) {
  // Group 1 wins with its two best; its third expert is far below every masked one.
  const std::vector<float> logits(8, 0.0f);
  const std::vector<float> bias = {-3, -3, -3, -3, -2, -2, -9, -9};
  EXPECT_EQ(Choose(logits, bias, {8, 2, 1, 3}).ids, (std::vector<int32_t>{4, 5, 6}));
}

TEST(Gate, LowerExpertAndGroupWinTies) {
  EXPECT_EQ(Choose(std::vector<float>(16, 1.0f), std::vector<float>(16, 0.0f), {16, 4, 2, 4}).ids,
            (std::vector<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(Choose(std::vector<float>(16, 1.0f), std::vector<float>(16, 0.0f), {16, 4, 2, 6}).ids,
            (std::vector<int32_t>{0, 1, 2, 3, 4, 5}));
}

TEST(Gate, NanIsChosenLastAndIdsStayDistinct) {
  std::vector<float> logits = {NAN, 1, NAN, 0};
  EXPECT_EQ(Choose(logits, {0, 0, 0, 0}, {4, 1, 1, 2}).ids, (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(Choose(std::vector<float>(4, NAN), {0, 0, 0, 0}, {4, 2, 1, 2}).ids,
            (std::vector<int32_t>{0, 1}));
}

TEST(Gate, NoRowsIsLegal) { EXPECT_TRUE(Choose({}, {0, 0}, {2, 1, 1, 1}).ids.empty()); }

}  // namespace
}  // namespace baleen::kernels
