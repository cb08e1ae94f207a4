#include <cmath>

#include "kernels/testing.h"

namespace baleen::kernels {
namespace {

using testing::TestMatrix;
using testing::TestQuantized;
using testing::Tolerance;

class Elementwise : public ::testing::TestWithParam<DType> {
 protected:
  std::unique_ptr<Backend> backend_ = MakeCpuBackend(2);
};
INSTANTIATE_TEST_SUITE_P(Both, Elementwise, ::testing::Values(DType::kF32, DType::kBf16));

TEST_P(Elementwise, QuantizeHandlesZerosAndExactPowersOfTwo) {
  TestMatrix x = TestMatrix::Random(3, 256, 1, GetParam());
  for (int c = 0; c < 256; ++c) x.Set(0, c, 0);
  for (int c = 0; c < 128; ++c) x.Set(1, c, c == 5 ? -448.0f : 1.0f);
  TestQuantized q(3, 256);
  backend_->Quantize({x.view(), q.view()});
  EXPECT_EQ(q.Scale(0, 0), 0x1p-22f);
  EXPECT_EQ(q.Scale(1, 0), 1.0f);
  EXPECT_EQ(q.At(1, 5), -448);
  EXPECT_EQ(q.At(1, 6), 1);
  for (int r = 0; r < 3; ++r) {
    for (int c = 0; c < 256; ++c) {
      float amax = 0;
      for (int i = 0; i < 128; ++i) {
        amax = std::max(amax, std::fabs(float(x.At(r, c / 128 * 128 + i))));
      }
      ASSERT_EQ(q.Scale(r, c), QuantScale(amax));
      ASSERT_EQ(q.At(r, c),
                E4m3ToF32(F32ToE4m3(float(x.At(r, c)) / q.Scale(r, c))) * q.Scale(r, c));
    }
  }
}

// Angles of a quarter turn move basis vectors onto each other, which shows the pairing.
TEST_P(Elementwise, RopeTurnsBasisVectors) {
  const int dims = 64, heads = 2, stride = 192, offset = 128;
  for (bool interleaved : {true, false}) {
    std::vector<float> cos(2 * dims / 2, 1.0f), sin(2 * dims / 2, 0.0f);
    for (int j = 0; j < dims / 2; ++j) {  // position 1: a quarter turn
      cos[dims / 2 + j] = 0;
      sin[dims / 2 + j] = 1;
    }
    const std::vector<int32_t> positions = {0, 1};
    for (int j = 0; j < dims / 2; ++j) {
      const int first = interleaved ? 2 * j : j;
      const int second = interleaved ? 2 * j + 1 : j + dims / 2;
      TestMatrix x(2, heads * stride, GetParam());
      for (int r = 0; r < 2; ++r) {
        for (int c = 0; c < heads * stride; ++c) x.Set(r, c, c % stride < offset ? 7.0f : 0.0f);
        x.Set(r, stride + offset + first, 2.0f);
        x.Set(r, offset + second, 3.0f);
      }
      backend_->Rope({x.view(), heads, stride, offset, dims, interleaved, positions.data(),
                      cos.data(), sin.data()});
      EXPECT_EQ(x.At(0, stride + offset + first), 2);
      EXPECT_EQ(x.At(1, stride + offset + first), 0);
      EXPECT_EQ(x.At(1, stride + offset + second), 2);  // (a, 0) -> (0, a)
      EXPECT_EQ(x.At(1, offset + first), -3);           // (0, b) -> (-b, 0)
      EXPECT_EQ(x.At(1, offset + second), 0);
      for (int r = 0; r < 2; ++r) EXPECT_EQ(x.At(r, stride + offset - 1), 7) << "not roped";
    }
  }
}

TEST_P(Elementwise, RopeMatchesF64) {
  const int dims = 64, rows = 9;
  std::vector<float> cos(100 * 32), sin(100 * 32);
  for (int i = 0; i < 3200; ++i) {
    cos[i] = float(std::cos(i * 0.37));
    sin[i] = float(std::sin(i * 0.37));
  }
  std::vector<int32_t> positions(rows);
  for (int r = 0; r < rows; ++r) positions[r] = 99 - 7 * r;
  for (bool interleaved : {true, false}) {
    TestMatrix x = TestMatrix::Random(rows, 3 * 128, 5, GetParam(), 2);
    const TestMatrix before = x;
    backend_->Rope(
        {x.view(), 3, 128, 0, dims, interleaved, positions.data(), cos.data(), sin.data()});
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < 3 * 128; ++c) {
        const int d = c % 128;
        double want = before.At(r, c);
        if (d < dims) {
          const int j = interleaved ? d / 2 : d % 32;
          const bool is_first = interleaved ? d % 2 == 0 : d < 32;
          const int other = interleaved ? (is_first ? c + 1 : c - 1) : (is_first ? c + 32 : c - 32);
          const double cs = cos[positions[r] * 32 + j];
          const double sn = sin[positions[r] * 32 + j];
          want = want * cs + (is_first ? -1 : 1) * before.At(r, other) * sn;
        }
        ASSERT_NEAR(x.At(r, c), want, Tolerance(GetParam(), want, 1e-6) + 1e-6);
      }
    }
  }
}

TEST_P(Elementwise, HadamardTwiceIsTheIdentity) {
  TestMatrix x = TestMatrix::Random(3, 256, 6, GetParam(), 4);
  const TestMatrix before = x;
  backend_->Hadamard({x.view()});
  double energy = 0, energy_before = 0;
  for (int c = 128; c < 256; ++c) {
    energy += x.At(1, c) * x.At(1, c);
    energy_before += before.At(1, c) * before.At(1, c);
  }
  EXPECT_NEAR(energy, energy_before, 0.01 * energy_before);
  EXPECT_GT(std::fabs(x.At(1, 3) - before.At(1, 3)), 1e-3);
  backend_->Hadamard({x.view()});
  const double step = GetParam() == DType::kF32 ? 1e-5 : 0.06;
  for (int r = 0; r < 3; ++r) {
    for (int c = 0; c < 256; ++c) ASSERT_NEAR(x.At(r, c), before.At(r, c), step);
  }
}

TEST_P(Elementwise, SiluMulQuantizesTheRoundedProduct) {
  const TestMatrix x = TestMatrix::Random(5, 512, 7, GetParam());
  TestMatrix out(5, 256, GetParam());
  TestQuantized fused(5, 256), separate(5, 256);
  backend_->SiluMul({x.view(), out.view(), fused.view()});
  backend_->Quantize({out.view(), separate.view()});
  for (int r = 0; r < 5; ++r) {
    for (int c = 0; c < 256; ++c) {
      const double g = x.At(r, c);
      const double want = g / (1 + std::exp(-g)) * x.At(r, c + 256);
      ASSERT_NEAR(out.At(r, c), want, Tolerance(GetParam(), want));
      ASSERT_EQ(fused.At(r, c), separate.At(r, c));
    }
  }
}

TEST_P(Elementwise, ScaleIndexWeightsFoldsTheQueryScales) {
  std::vector<float> weights = {1, -2, 3, 4};
  const std::vector<float> scales = {1, 2, 4, 8};
  backend_->ScaleIndexWeights({weights.data(), 2, 2, scales.data(), 0.5f});
  EXPECT_EQ(weights, (std::vector<float>{0.5f, -2, 6, 16}));
  backend_->ScaleIndexWeights({weights.data(), 2, 2, nullptr, 2.0f});
  EXPECT_EQ(weights, (std::vector<float>{1, -4, 12, 32}));
}

TEST_P(Elementwise, NoRowsIsLegal) {
  const TestMatrix none(0, 256, GetParam());
  backend_->Hadamard({none.view()});
  backend_->Rope({none.view(), 2, 128, 0, 64, true, nullptr, nullptr, nullptr});
  backend_->SiluMul({none.view(), TestMatrix(0, 128, GetParam()).view(), {}});
  backend_->Quantize({none.view(), TestQuantized(0, 256).view()});
}

}  // namespace
}  // namespace baleen::kernels
