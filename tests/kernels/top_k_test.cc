#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "kernels/testing.h"

namespace baleen::kernels {
namespace {

using testing::RandomFloats;

// A full sort: larger first, then the lower position.
std::vector<int32_t> Reference(const float* logits, int n, int k) {
  std::vector<int32_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  order.resize(std::min(n, k));
  std::sort(order.begin(), order.end());
  order.resize(k, -1);
  return order;
}

std::vector<int32_t> Select(const std::vector<float>& logits, int64_t stride,
                            const std::vector<int32_t>& positions, int k) {
  std::vector<int32_t> indices(positions.size() * k, -7);
  MakeCpuBackend(2)->TopK(
      {logits.data(), stride, positions.data(), int(positions.size()), k, indices.data()});
  return indices;
}

TEST(TopK, EqualsAFullSort) {
  const uint32_t seed = 20;
  SCOPED_TRACE(seed);
  for (int k : {1, 2, 64, 256}) {
    const int stride = 3000;
    const std::vector<int32_t> positions = {0, k - 1, k, k + 1, 700, 2999, 1023, 2047};
    const std::vector<float> logits = RandomFloats(positions.size() * stride, seed + k);
    const std::vector<int32_t> got = Select(logits, stride, positions, k);
    for (size_t r = 0; r < positions.size(); ++r) {
      const std::vector<int32_t> row(got.begin() + r * k, got.begin() + (r + 1) * k);
      ASSERT_EQ(row, Reference(&logits[r * stride], positions[r] + 1, k)) << positions[r];
    }
  }
}

TEST(TopK, LowerPositionWinsAmongEquals) {
  const uint32_t seed = 21;
  std::mt19937 rng(seed);
  for (int round = 0; round < 200; ++round) {
    const int n = 1 + int(rng() % 400);
    const int k = 1 + int(rng() % 100);
    std::vector<float> logits(n);
    const int levels = 1 + round % 5;
    for (float& v : logits) v = float(int(rng() % levels)) - 2;  // few levels, both signs
    ASSERT_EQ(Select(logits, n, {n - 1}, k), Reference(logits.data(), n, k))
        << "seed " << seed << " round " << round;
  }
}

TEST(TopK, TheTwoZerosAreEqual) {
  EXPECT_EQ(Select({-0.0f, 0.0f, -0.0f, 0.0f}, 4, {3}, 2), (std::vector<int32_t>{0, 1}));
}

TEST(TopK, NanAndInfinitiesHaveAPlace) {
  const std::vector<float> logits = {NAN, -INFINITY, 1, INFINITY, -NAN, -5};
  EXPECT_EQ(Select(logits, 6, {5}, 3), (std::vector<int32_t>{2, 3, 5}));
  EXPECT_EQ(Select(logits, 6, {5}, 5), (std::vector<int32_t>{0, 1, 2, 3, 5}));
}

TEST(TopK, NeverReadsBeyondThePosition) {
  std::vector<float> logits(100, INFINITY);
  for (int i = 0; i <= 40; ++i) logits[i] = float(i);
  EXPECT_EQ(Select(logits, 100, {40}, 3), (std::vector<int32_t>{38, 39, 40}));
}

TEST(TopK, NoRowsIsLegal) { EXPECT_TRUE(Select({}, 10, {}, 4).empty()); }

}  // namespace
}  // namespace baleen::kernels
