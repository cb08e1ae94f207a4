#include "kernels/cuda/parity.h"

namespace baleen::kernels {
namespace {

using testing::ExpectSameButForRounding;
using testing::RandomFloats;
using testing::RowOf;
using testing::SetSpecialRows;
using testing::TestMatrix;
using testing::TestQuantized;

constexpr DType kBf16 = DType::kBf16;
constexpr DType kF32 = DType::kF32;
constexpr float kEps = 1e-6f;

struct Shape {
  int rows, dim, padding;
};

// Which operands an AddRmsNorm has.
struct Operands {
  DType x = kBf16;
  bool residual = false;
  bool sum = false;
  DType sum_dtype = kBf16;
  bool out = true;
  bool quantized = false;
};

class NormParity : public testing::GpuTest {
 protected:
  struct Result {
    TestMatrix sum;
    TestMatrix out;
  };

  // Runs one on the device into fresh memory; `quantized` may be empty.
  Result Run(const TestMatrix& x, const TestMatrix& residual, const std::vector<float>& weight,
             const Operands& o, const Quantized& quantized) {
    const int padding = int(x.view().stride) - x.cols();
    Result r = {TestMatrix(x.rows(), x.cols(), o.sum_dtype, padding),
                TestMatrix(x.rows(), x.cols(), kBf16, padding)};
    const Matrix sum = Upload(r.sum);
    const Matrix out = Upload(r.out);
    gpu_->AddRmsNorm({.x = Upload(x),
                      .residual = o.residual ? Upload(residual) : Matrix{},
                      .residual_out = o.sum ? sum : Matrix{},
                      .weight = o.out || o.quantized ? Upload(weight) : nullptr,
                      .out = o.out ? out : Matrix{},
                      .quantized = quantized,
                      .eps = kEps});
    Download(sum, r.sum);
    Download(out, r.out);
    return r;
  }
};

TEST_F(NormParity, AddRmsNormFollowsTheCpuInAllItsForms) {
  const Shape shapes[] = {{1, 7168, 0}, {9, 7168, 8},  {5, 1536, 0},  {9, 512, 64}, {2, 256, 0},
                          {3, 128, 0},  {11, 6144, 4}, {1, 16384, 0}, {17, 640, 0}};
  const Operands forms[] = {
      {.residual = true, .sum = true, .quantized = true},  // between the parts of a layer
      {.sum = true, .quantized = true},                    // the first of a model
      {.x = kF32, .sum = true, .quantized = true},         // the first of a stage
      {.quantized = true},                                 // the query's latent
      {},                                                  // the key's latent
      {.residual = true},                                  // the last
      {.residual = true, .sum = true, .sum_dtype = kF32, .out = false},  // to the next stage
      {.x = kF32, .residual = true, .sum = true, .sum_dtype = kF32}};
  for (const Shape& s : shapes) {
    const std::vector<float> weight = RandomFloats(s.dim, 3);
    TestMatrix residual = TestMatrix::Random(s.rows, s.dim, 2, kBf16, s.padding);
    for (const Operands& o : forms) {
      TestMatrix x = TestMatrix::Random(s.rows, s.dim, 1, o.x, s.padding);
      SetSpecialRows(x, /*nan=*/false);
      TestMatrix want_sum(s.rows, s.dim, o.sum_dtype, s.padding);
      TestMatrix want(s.rows, s.dim, kBf16, s.padding);
      cpu_->AddRmsNorm({.x = x.view(),
                        .residual = o.residual ? residual.view() : Matrix{},
                        .residual_out = o.sum ? want_sum.view() : Matrix{},
                        .weight = weight.data(),
                        .out = o.out ? want.view() : Matrix{},
                        .eps = kEps});
      const Quantized fp8 = o.quantized ? PoisonedQuantized(s.rows, s.dim) : Quantized{};
      const Result got = Run(x, residual, weight, o, fp8);
      ASSERT_TRUE(got.sum.SameBytes(want_sum)) << s.rows << " x " << s.dim;
      ExpectSameButForRounding(got.out, want);
      if (!o.quantized) continue;
      const TestQuantized want8(s.rows, s.dim);
      cpu_->Quantize({got.out.view(), want8.view()});
      ExpectSame(fp8, want8.view());
      const Quantized alone = PoisonedQuantized(s.rows, s.dim);
      Operands only = o;
      only.out = false;
      Run(x, residual, weight, only, alone);
      ExpectSame(alone, want8.view());
    }
  }
}

TEST_F(NormParity, AddRmsNormTakesRowsOfAnyNumberOfPacks) {
  for (int dim : {8, 200, 264, 4104}) {
    const std::vector<float> weight = RandomFloats(dim, 3);
    const TestMatrix x = TestMatrix::Random(3, dim, 1, kBf16);
    const TestMatrix residual = TestMatrix::Random(3, dim, 2, kBf16);
    TestMatrix want_sum(3, dim, kBf16), want(3, dim, kBf16);
    cpu_->AddRmsNorm(
        {x.view(), residual.view(), want_sum.view(), weight.data(), want.view(), {}, kEps});
    const Result got = Run(x, residual, weight, {.residual = true, .sum = true}, {});
    EXPECT_TRUE(got.sum.SameBytes(want_sum));
    ExpectSameButForRounding(got.out, want);
  }
}

TEST_F(NormParity, AddRmsNormOverItsInputsGivesTheSameBits) {
  const int dim = 7168, rows = 5;
  const std::vector<float> weight = RandomFloats(dim, 3);
  const float* w = Upload(weight);
  const TestMatrix x = TestMatrix::Random(rows, dim, 1, kBf16);
  const TestMatrix residual = TestMatrix::Random(rows, dim, 2, kBf16);
  const Result apart = Run(x, residual, weight, {.residual = true, .sum = true}, {});
  {  // out over x, the sum over the residual
    const Matrix x_out = Upload(x);
    const Matrix stream = Upload(residual);
    gpu_->AddRmsNorm({x_out, stream, stream, w, x_out, {}, kEps});
    TestMatrix sum = residual, out = x;
    Download(stream, sum);
    Download(x_out, out);
    EXPECT_TRUE(sum.SameBytes(apart.sum));
    EXPECT_TRUE(out.SameBytes(apart.out));
  }
  {  // the sum over x
    TestMatrix sum = x, out(rows, dim, kBf16);
    const Matrix x_sum = Upload(x);
    const Matrix normed = Upload(out);
    gpu_->AddRmsNorm({x_sum, Upload(residual), x_sum, w, normed, {}, kEps});
    Download(x_sum, sum);
    Download(normed, out);
    EXPECT_TRUE(sum.SameBytes(apart.sum));
    EXPECT_TRUE(out.SameBytes(apart.out));
  }
}

// Columns of a wider matrix: the latent of kv = [latent 512 | key 64] in place, and MTP's halves.
TEST_F(NormParity, AddRmsNormOfAColumnRangeTouchesNothingElse) {
  const std::vector<float> weight = RandomFloats(512, 3);
  const TestMatrix kv = TestMatrix::Random(7, 576, 1, kBf16);
  const auto latent_of = [](Matrix m) {
    m.cols = 512;
    return m;
  };
  TestMatrix want = kv, got = kv;
  const Matrix want_latent = latent_of(want.view());
  cpu_->AddRmsNorm({.x = want_latent, .weight = weight.data(), .out = want_latent, .eps = kEps});
  const Matrix device = Upload(kv);
  const float* w = Upload(weight);
  gpu_->AddRmsNorm({.x = latent_of(device), .weight = w, .out = latent_of(device), .eps = kEps});
  Download(device, got);
  ExpectSameButForRounding(got, want);

  const TestMatrix half = TestMatrix::Random(4, 512, 2, kBf16);
  TestMatrix want_joined(4, 1024, kBf16), got_joined(4, 1024, kBf16);
  const auto right_of = [](Matrix m) {
    m.data = static_cast<std::byte*>(m.data) + 512 * sizeof(uint16_t);
    m.cols = 512;
    return m;
  };
  cpu_->AddRmsNorm({.x = half.view(),
                    .weight = weight.data(),
                    .out = right_of(want_joined.view()),
                    .eps = kEps});
  const Matrix joined = Upload(got_joined);
  gpu_->AddRmsNorm({.x = Upload(half), .weight = w, .out = right_of(joined), .eps = kEps});
  Download(joined, got_joined);
  ExpectSameButForRounding(got_joined, want_joined);
  EXPECT_TRUE(std::isnan(got_joined.At(3, 511))) << "the left half is not written";
}

TEST_F(NormParity, ARowAloneInABatchAndAtAnotherAlignmentHasTheSameBits) {
  for (int dim : {128, 1536, 7168}) {
    const int rows = 130;
    const std::vector<float> weight = RandomFloats(dim, 3);
    const TestMatrix x = TestMatrix::Random(rows, dim, 1, kBf16);
    const TestMatrix residual = TestMatrix::Random(rows, dim, 2, kBf16);
    const Operands o = {.residual = true, .sum = true};
    const Result batch = Run(x, residual, weight, o, {});
    EXPECT_TRUE(batch.out.SameBytes(Run(x, residual, weight, o, {}).out)) << "twice the same";
    for (int r : {0, 1, 77, 129}) {
      const Result alone = Run(RowOf(x, r), RowOf(residual, r), weight, o, {});
      EXPECT_TRUE(alone.out.SameBytes(RowOf(batch.out, r))) << "row " << r << " of " << dim;
      EXPECT_TRUE(alone.sum.SameBytes(RowOf(batch.sum, r))) << "row " << r << " of " << dim;
    }
    TestMatrix padded(2, dim, kBf16, 4), padded_residual(2, dim, kBf16, 4);
    for (int c = 0; c < dim; ++c) {
      padded.Set(1, c, float(x.At(77, c)));
      padded_residual.Set(1, c, float(residual.At(77, c)));
    }
    const Result other = Run(padded, padded_residual, weight, o, {});
    for (int c = 0; c < dim; ++c) ASSERT_EQ(other.out.At(1, c), batch.out.At(77, c));
  }
}

TEST_F(NormParity, LayerNormFollowsTheCpu) {
  const std::vector<float> weight = RandomFloats(128, 2);
  const std::vector<float> bias = RandomFloats(128, 3);
  const float* w = Upload(weight);
  const float* b = Upload(bias);
  for (const Shape& s : {Shape{1, 128, 0}, Shape{9, 128, 4}, Shape{131, 128, 8}}) {
    TestMatrix x = TestMatrix::Random(s.rows, s.dim, 1, kBf16, s.padding);
    SetSpecialRows(x, /*nan=*/false);
    for (int r = 2; r < s.rows; r += 8) {  // squares overflow, but no sum of the row may
      for (int c = 0; c < s.dim; ++c) x.Set(r, c, float(x.At(r, c)) * 1e-3f);
    }
    TestMatrix want(s.rows, s.dim, kBf16, s.padding), got = want, in_place = x;
    cpu_->LayerNorm({x.view(), weight.data(), bias.data(), want.view(), kEps});
    const Matrix out = Upload(got);
    gpu_->LayerNorm({Upload(x), w, b, out, kEps});
    Download(out, got);
    ExpectSameButForRounding(got, want, /*absolute=*/1e-5);
    const Matrix over = Upload(x);
    gpu_->LayerNorm({over, w, b, over, kEps});
    Download(over, in_place);
    EXPECT_TRUE(in_place.SameBytes(got));

    const int last = s.rows - 1;
    TestMatrix row(1, s.dim, kBf16, s.padding);
    const Matrix alone = Upload(row);
    gpu_->LayerNorm({Upload(RowOf(x, last)), w, b, alone, kEps});
    Download(alone, row);
    EXPECT_TRUE(row.SameBytes(RowOf(got, last))) << "a row alone";
  }
}

TEST_F(NormParity, NoRowsLaunchNothing) {
  const TestMatrix none(0, 256, kBf16);
  const float weight = 1;
  gpu_->AddRmsNorm({.x = none.view(), .weight = &weight, .out = none.view(), .eps = kEps});
  gpu_->LayerNorm(
      {TestMatrix(0, 128, kBf16).view(), &weight, &weight, TestMatrix(0, 128, kBf16).view(), kEps});
  gpu_->Synchronize();
}

using NormParityDeath = NormParity;

TEST_F(NormParityDeath, RefusesWhatItCannotServe) {
  const TestMatrix x(2, 256, kBf16);
  const TestMatrix f32(2, 256);
  const std::vector<float> weight(256, 1.0f);
  EXPECT_DEATH(gpu_->AddRmsNorm({.x = x.view(), .weight = weight.data(), .out = f32.view()}),
               "bf16 activations");
  EXPECT_DEATH(gpu_->LayerNorm({x.view(), weight.data(), weight.data(), x.view(), kEps}),
               "128 columns");
}

}  // namespace
}  // namespace baleen::kernels
