#include "kernels/cpu/simd.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "common/kv_layout.h"
#include "gtest/gtest.h"
#include "kernels/float_formats.h"
#include "kernels/testing.h"

namespace baleen::kernels {
namespace {

using testing::RandomFloats;

// c = a b^T with f64 sums.
std::vector<double> Reference(const std::vector<float>& a, int m, const std::vector<float>& b,
                              int n, int k) {
  std::vector<double> c(size_t(m) * n);
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      for (int s = 0; s < k; ++s) c[i * n + j] += double(a[i * k + s]) * b[j * k + s];
    }
  }
  return c;
}

TEST(Simd, MultiplyTransposedEqualsAnF64Product) {
  for (int m : {0, 1, 2, 3, 5, 6, 7, 13}) {
    for (int n : {1, 3, 4, 5, 8, 9, 31}) {
      for (int k : {0, 1, 7, 16, 63, 64, 130}) {
        const std::vector<float> a = RandomFloats(size_t(m) * k, m + n + k);
        const std::vector<float> b = RandomFloats(size_t(n) * k, m * n + k);
        std::vector<float> c(size_t(m) * n + 1, NAN);
        simd::MultiplyTransposed(a.data(), k, m, b.data(), k, n, k, c.data(), n);
        const std::vector<double> want = Reference(a, m, b, n, k);
        for (size_t i = 0; i < want.size(); ++i) {
          ASSERT_NEAR(c[i], want[i], 1e-5 * (1 + k)) << m << "x" << n << "x" << k << " at " << i;
        }
        EXPECT_TRUE(std::isnan(c.back())) << "wrote past the end";
      }
    }
  }
}

TEST(Simd, ARowsProductDoesNotDependOnTheOtherRows) {
  const int k = 200;
  const int n = 37;
  const std::vector<float> a = RandomFloats(512 * k, 1);
  const std::vector<float> b = RandomFloats(n * k, 2);
  std::vector<float> all(512 * n);
  simd::MultiplyTransposed(a.data(), k, 512, b.data(), k, n, k, all.data(), n);
  for (int m = 1; m <= 64; ++m) {
    std::vector<float> some(size_t(m) * n);
    simd::MultiplyTransposed(a.data(), k, m, b.data(), k, n, k, some.data(), n);
    ASSERT_EQ(std::memcmp(some.data(), all.data(), some.size() * sizeof(float)), 0) << m;
  }
  // Nor on which columns stand beside a column, nor on where b's rows lie.
  std::vector<const float*> rows;
  for (int j = 5; j < n; ++j) rows.push_back(b.data() + j * k);
  std::vector<float> some(rows.size());
  simd::MultiplyTransposed(a.data() + 9 * k, k, 1, rows.data(), int(rows.size()), k, some.data(),
                           int(rows.size()));
  EXPECT_EQ(std::memcmp(some.data(), &all[9 * n + 5], some.size() * sizeof(float)), 0);
}

TEST(Simd, MultiplyAccumulateAddsToTheOutput) {
  for (int m : {1, 3, 4, 9}) {
    for (int n : {1, 17, 64, 100}) {
      const int k = 11;
      const std::vector<float> a = RandomFloats(size_t(m) * k, m);
      const std::vector<float> b = RandomFloats(size_t(k) * n, n);
      std::vector<const float*> rows;
      for (int s = 0; s < k; ++s) rows.push_back(b.data() + s * n);
      std::vector<float> c = RandomFloats(size_t(m) * n, 7);
      const std::vector<float> before = c;
      simd::MultiplyAccumulate(a.data(), k, m, rows.data(), k, n, c.data(), n);
      for (int i = 0; i < m; ++i) {
        for (int j = 0; j < n; ++j) {
          double want = before[i * n + j];
          for (int s = 0; s < k; ++s) want += double(a[i * k + s]) * b[s * n + j];
          ASSERT_NEAR(c[i * n + j], want, 1e-4);
        }
      }
    }
  }
}

TEST(Simd, ConversionsEqualTheScalarOnesBitForBit) {
  std::vector<float> values = {0.0f,     -0.0f,     448,      449,      1e30f,
                               -1e30f,   0x1p-9f,   0x1p-10f, 0x3p-10f, 0x1p-6f,
                               INFINITY, -INFINITY, NAN,      464,      3.4e38f};
  for (float v : RandomFloats(3000, 3)) values.push_back(std::ldexp(v, int(v * 40)));
  const int n = static_cast<int>(values.size());
  std::vector<uint16_t> bf16(n);
  simd::F32ToBf16(values.data(), n, bf16.data());
  std::vector<float> back(n);
  std::vector<float> rounded = values;
  simd::Bf16ToF32(bf16.data(), n, back.data());
  simd::RoundToBf16(rounded.data(), n);
  for (int i = 0; i < n; ++i) {
    ASSERT_EQ(bf16[i], F32ToBf16(values[i])) << values[i];
    const float want = RoundToBf16(values[i]);
    ASSERT_EQ(std::memcmp(&back[i], &want, 4), 0);
    ASSERT_EQ(std::memcmp(&rounded[i], &want, 4), 0);
  }
  std::vector<uint8_t> codes(256);
  for (int i = 0; i < 256; ++i) codes[i] = static_cast<uint8_t>(i);
  std::vector<float> decoded(256);
  simd::DecodeE4m3(codes.data(), 256, 4.0f, decoded.data());
  for (int i = 0; i < 256; ++i) {
    const float want = E4m3ToF32(codes[i]) * 4;
    ASSERT_TRUE(decoded[i] == want || (std::isnan(decoded[i]) && std::isnan(want))) << i;
  }
}

TEST(Simd, QuantizeGroupFollowsTheBitRule) {
  for (int seed = 0; seed < 200; ++seed) {
    std::vector<float> x = RandomFloats(128, seed);
    for (float& v : x) v = std::ldexp(v, seed % 30 - 15);
    float amax = 0;
    for (float v : x) amax = std::max(amax, std::fabs(v));
    std::vector<uint8_t> q(128);
    const float scale = simd::QuantizeGroup(x.data(), 128, q.data());
    ASSERT_EQ(scale, QuantScale(amax)) << "seed " << seed;
    for (int i = 0; i < 128; ++i) ASSERT_EQ(q[i], F32ToE4m3(x[i] / scale)) << "seed " << seed;
  }
}

TEST(Simd, SumsAndMaximaCoverEveryElement) {
  for (int n : {0, 1, 15, 16, 17, 63, 64, 65, 300}) {
    const std::vector<float> x = RandomFloats(n, n + 1);
    double sum = 0, squares = 0;
    float largest = -INFINITY;
    for (float v : x) {
      sum += v;
      squares += double(v) * v;
      largest = std::max(largest, v);
    }
    EXPECT_NEAR(simd::Sum(x.data(), n), sum, 1e-4) << n;
    EXPECT_NEAR(simd::SumOfSquares(x.data(), n), squares, 1e-4 * (1 + squares)) << n;
    EXPECT_EQ(simd::Max(x.data(), n), largest) << n;
  }
}

TEST(Simd, ExpAndSumMatchesTheLibrary) {
  std::vector<float> x = RandomFloats(77, 5);
  for (float& v : x) v *= 20;
  x[3] = -INFINITY;
  x[4] = -200;
  const float max = simd::Max(x.data(), 77);
  const std::vector<float> before = x;
  const float sum = simd::ExpAndSum(max, x.data(), 77);
  double want_sum = 0;
  for (int i = 0; i < 77; ++i) {
    const double want = std::exp(double(before[i]) - max);
    want_sum += want;
    EXPECT_NEAR(x[i], want, 1e-5 * want + 1e-37) << i;
  }
  EXPECT_EQ(x[3], 0);
  EXPECT_EQ(x[4], 0);
  EXPECT_NEAR(sum, want_sum, 1e-5 * want_sum);
}

TEST(Simd, SiluMulHoldsAtTheExtremes) {
  const std::vector<float> gate = {0, 1, -1, 30, -30, 100, -100, 1e30f, -1e30f};
  const std::vector<float> up(gate.size(), 2.0f);
  std::vector<float> out(gate.size());
  simd::SiluMul(gate.data(), up.data(), int64_t(gate.size()), out.data());
  for (size_t i = 0; i < gate.size(); ++i) {
    const double want = 2.0 * gate[i] / (1 + std::exp(-double(gate[i])));
    EXPECT_NEAR(out[i], want, 1e-6 * std::fabs(want) + 1e-6) << gate[i];
  }
}

// Odd numbers of keys, heads and dimensions: the edges of every tile.
TEST(Simd, ScoreKeysEqualsTheF64Formula) {
  for (int count : {1, 3, 4, 63, 64}) {
    for (int heads : {1, 3, 4, 9}) {
      for (int dim : {1, 6, 128}) {
        const std::vector<float> keys = RandomFloats(size_t(count) * dim, count + dim);
        const std::vector<float> q = RandomFloats(size_t(heads) * dim, heads + dim);
        const std::vector<float> weights = RandomFloats(heads, heads);
        std::vector<float> columns(size_t(kPageTokens) * dim, NAN);
        std::vector<float> scores(kPageTokens, NAN);
        simd::TransposeKeys(keys.data(), count, dim, columns.data());
        simd::ScoreKeys(q.data(), heads, dim, columns.data(), weights.data(), scores.data());
        const std::vector<double> products = Reference(q, heads, keys, count, dim);
        for (int s = 0; s < kPageTokens; ++s) {
          double want = 0;
          for (int h = 0; h < heads && s < count; ++h) {
            want += weights[h] * std::max(0.0, products[size_t(h) * count + s]);
          }
          ASSERT_NEAR(scores[s], want, 1e-5 * (1 + dim) * heads) << count << " " << s;
        }
      }
    }
  }
}

TEST(Simd, ElementwiseOpsTouchOnlyTheirElements) {
  const std::vector<float> x = RandomFloats(33, 1), y = RandomFloats(33, 2);
  std::vector<float> out(34, 9);
  simd::Add(x.data(), y.data(), 33, out.data());
  for (int i = 0; i < 33; ++i) EXPECT_EQ(out[i], x[i] + y[i]);
  simd::MultiplyScaled(x.data(), y.data(), 0.5f, 33, out.data());
  for (int i = 0; i < 33; ++i) EXPECT_EQ(out[i], x[i] * 0.5f * y[i]);
  out.assign(34, 9);
  simd::AddScaled(x.data(), 3, 33, out.data());
  for (int i = 0; i < 33; ++i) EXPECT_NEAR(out[i], 9 + 3 * x[i], 1e-5);
  simd::Scale(0, out.data(), 33);
  for (int i = 0; i < 33; ++i) EXPECT_EQ(out[i], 0);
  EXPECT_EQ(out[33], 9);
}

TEST(Simd, HadamardTwiceIsTheIdentity) {
  std::vector<float> x = RandomFloats(128, 4);
  const std::vector<float> before = x;
  simd::Hadamard128(x.data());
  // Sylvester order: element i is sum_j (-1)^popcount(i & j) x[j] / sqrt(128).
  for (int i = 0; i < 128; ++i) {
    double want = 0;
    for (int j = 0; j < 128; ++j) want += __builtin_popcount(i & j) % 2 ? -before[j] : before[j];
    ASSERT_NEAR(x[i], want / std::sqrt(128.0), 1e-5) << i;
  }
  simd::Hadamard128(x.data());
  for (int i = 0; i < 128; ++i) EXPECT_NEAR(x[i], before[i], 1e-5);
}

}  // namespace
}  // namespace baleen::kernels
