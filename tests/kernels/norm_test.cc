#include <cmath>

#include "kernels/testing.h"

namespace baleen::kernels {
namespace {

using testing::TestMatrix;
using testing::TestQuantized;
using testing::Tolerance;

class Norm : public ::testing::TestWithParam<DType> {
 protected:
  std::unique_ptr<Backend> backend_ = MakeCpuBackend(2);
};
INSTANTIATE_TEST_SUITE_P(Both, Norm, ::testing::Values(DType::kF32, DType::kBf16));

double RmsOf(const std::vector<double>& s, float eps) {
  double squares = 0;
  for (double v : s) squares += v * v;
  return 1 / std::sqrt(squares / double(s.size()) + eps);
}

TEST_P(Norm, AddRmsNormUsesTheUnroundedSum) {
  for (int rows : {0, 1, 5}) {
    for (int dim : {128, 200, 1024}) {
      const TestMatrix x = TestMatrix::Random(rows, dim, 1, GetParam(), 3);
      const TestMatrix residual = TestMatrix::Random(rows, dim, 2, GetParam());
      const std::vector<float> weight = testing::RandomFloats(dim, 3);
      TestMatrix sum(rows, dim, GetParam()), out(rows, dim, GetParam(), 5);
      backend_->AddRmsNorm({.x = x.view(),
                            .residual = residual.view(),
                            .residual_out = sum.view(),
                            .weight = weight.data(),
                            .out = out.view(),
                            .eps = 1e-6f});
      for (int r = 0; r < rows; ++r) {
        std::vector<double> s(dim);
        for (int c = 0; c < dim; ++c) s[c] = x.At(r, c) + residual.At(r, c);
        const double rms = RmsOf(s, 1e-6f);
        for (int c = 0; c < dim; ++c) {
          const double want = weight[c] * s[c] * rms;
          ASSERT_NEAR(out.At(r, c), want, Tolerance(GetParam(), want)) << r << "," << c;
          ASSERT_NEAR(sum.At(r, c), s[c], Tolerance(GetParam(), s[c], 1e-6));
        }
      }
    }
  }
}

TEST_P(Norm, AddRmsNormWorksInPlaceOverAnF32Stream) {
  const int dim = 256;
  const TestMatrix x = TestMatrix::Random(3, dim, 1, GetParam());
  TestMatrix stream = TestMatrix::Random(3, dim, 2);
  const TestMatrix before = stream;
  const std::vector<float> weight(dim, 1.0f);
  TestMatrix out(3, dim, GetParam());
  backend_->AddRmsNorm({.x = x.view(),
                        .residual = stream.view(),
                        .residual_out = stream.view(),
                        .weight = weight.data(),
                        .out = out.view(),
                        .eps = 1e-6f});
  for (int c = 0; c < dim; ++c) {
    EXPECT_EQ(stream.At(1, c), float(x.At(1, c)) + float(before.At(1, c)));
  }
  // Only the sum.
  TestMatrix sum(3, dim);
  backend_->AddRmsNorm({.x = x.view(), .residual = before.view(), .residual_out = sum.view()});
  EXPECT_TRUE(sum.SameBytes(stream));
  // Without a residual, out over x.
  TestMatrix y = x;
  backend_->AddRmsNorm({.x = y.view(), .weight = weight.data(), .out = y.view(), .eps = 1e-6f});
  std::vector<double> row(dim);
  for (int c = 0; c < dim; ++c) row[c] = x.At(2, c);
  for (int c = 0; c < dim; ++c) {
    const double want = row[c] * RmsOf(row, 1e-6f);
    EXPECT_NEAR(y.At(2, c), want, Tolerance(GetParam(), want));
  }
}

TEST_P(Norm, QuantizesTheRoundedOutput) {
  const int dim = 384;
  const TestMatrix x = TestMatrix::Random(4, dim, 1, DType::kBf16);
  const std::vector<float> weight = testing::RandomFloats(dim, 3);
  TestMatrix out(4, dim, DType::kBf16);
  TestQuantized fused(4, dim), separate(4, dim), alone(4, dim);
  backend_->AddRmsNorm({.x = x.view(),
                        .weight = weight.data(),
                        .out = out.view(),
                        .quantized = fused.view(),
                        .eps = 1e-6f});
  backend_->AddRmsNorm(
      {.x = x.view(), .weight = weight.data(), .quantized = alone.view(), .eps = 1e-6f});
  backend_->Quantize({out.view(), separate.view()});
  for (int r = 0; r < 4; ++r) {
    for (int c = 0; c < dim; ++c) {
      ASSERT_EQ(fused.At(r, c), separate.At(r, c));
      ASSERT_EQ(alone.At(r, c), separate.At(r, c));
    }
  }
}

TEST_P(Norm, LayerNormMatchesF64) {
  for (int cols : {128, 77}) {
    TestMatrix x = TestMatrix::Random(6, cols, 1, GetParam(), 1);
    const std::vector<float> weight = testing::RandomFloats(cols, 2);
    const std::vector<float> bias = testing::RandomFloats(cols, 3);
    TestMatrix out(6, cols, GetParam());
    backend_->LayerNorm({x.view(), weight.data(), bias.data(), out.view(), 1e-6f});
    for (int r = 0; r < 6; ++r) {
      double mean = 0, variance = 0;
      for (int c = 0; c < cols; ++c) mean += x.At(r, c) / cols;
      for (int c = 0; c < cols; ++c) variance += std::pow(x.At(r, c) - mean, 2) / cols;
      for (int c = 0; c < cols; ++c) {
        const double want = (x.At(r, c) - mean) / std::sqrt(variance + 1e-6) * weight[c] + bias[c];
        ASSERT_NEAR(out.At(r, c), want, Tolerance(GetParam(), want));
      }
    }
    backend_->LayerNorm({x.view(), weight.data(), bias.data(), x.view(), 1e-6f});
    EXPECT_EQ(x.At(5, cols - 1), out.At(5, cols - 1)) << "in place";
  }
}

}  // namespace
}  // namespace baleen::kernels
