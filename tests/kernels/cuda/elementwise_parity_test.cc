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

struct Shape {
  int rows, cols, padding;
};

TestMatrix SpecialMatrix(const Shape& s, uint32_t seed, bool nan) {
  TestMatrix m = TestMatrix::Random(s.rows, s.cols, seed, kBf16, s.padding);
  SetSpecialRows(m, nan);
  return m;
}

class ElementwiseParity : public testing::GpuTest {
 protected:
  // The host matrix after an op in place on the device.
  template <class Op>
  TestMatrix InPlace(const TestMatrix& before, const Op& op) {
    TestMatrix after = before;
    const Matrix device = Upload(before);
    op(device);
    Download(device, after);
    return after;
  }
};

// ---- Quantize

TEST_F(ElementwiseParity, QuantizeGivesTheBytesOfTheCpu) {
  for (const Shape& s :
       {Shape{1, 128, 0}, Shape{1, 256, 0}, Shape{9, 7168, 0}, Shape{9, 1536, 8}, Shape{17, 384, 4},
        Shape{33, 128, 0}, Shape{2, 16384, 0}, Shape{8, 8192, 128}, Shape{300, 512, 64}}) {
    for (uint32_t seed : {1u, 2u}) {
      const TestMatrix x = SpecialMatrix(s, seed, /*nan=*/true);
      const TestQuantized want(s.rows, s.cols);
      cpu_->Quantize({x.view(), want.view()});
      const Quantized got = PoisonedQuantized(s.rows, s.cols);
      gpu_->Quantize({Upload(x), got});
      ExpectSame(got, want.view());
    }
  }
}

// All mantissas of bf16 from 2^-30 to 2: the first group's scale is 1, which shows e4m3's
// subnormals, the second's makes the largest values fill its range.
TEST_F(ElementwiseParity, QuantizeRoundsEveryValueAsTheCpu) {
  const int rows = 256;
  TestMatrix x(rows, 256, kBf16);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < 256; ++c) {
      const auto bits = static_cast<uint16_t>(0x3800 + r % 16 * 128 + c / 2);
      x.Set(r, c, (c % 2 == 0 ? 1.0f : -1.0f) * Bf16ToF32(bits) / float(1 << (r / 16)));
    }
    x.Set(r, 0, 448.0f);
  }
  const TestQuantized want(rows, 256);
  cpu_->Quantize({x.view(), want.view()});
  const Quantized got = PoisonedQuantized(rows, 256);
  gpu_->Quantize({Upload(x), got});
  ExpectSame(got, want.view());
}

TEST_F(ElementwiseParity, QuantizeOfARowDependsOnItAlone) {
  const TestMatrix x = SpecialMatrix({130, 1536, 0}, 3, /*nan=*/false);
  for (int r : {0, 1, 64, 129}) {
    const TestMatrix row = RowOf(x, r);
    const Quantized batch = PoisonedQuantized(130, 1536);
    gpu_->Quantize({Upload(x), batch});
    const Quantized alone = PoisonedQuantized(1, 1536);
    gpu_->Quantize({Upload(row), alone});
    EXPECT_EQ(Download(alone.data, 1536), Download(batch.data + r * 1536, 1536));
    EXPECT_EQ(Download(alone.scales, 12), Download(batch.scales + r * 12, 12));
  }
}

// ---- Rope

struct Angles {
  std::vector<float> cos, sin;

  Angles(int positions, int half) {
    for (int p = 0; p < positions; ++p) {
      for (int j = 0; j < half; ++j) {
        const double angle = p * std::pow(10000.0, -double(j) / half);
        cos.push_back(float(std::cos(angle)));
        sin.push_back(float(std::sin(angle)));
      }
    }
  }
};

struct RopeShape {
  int rows, heads, head_stride, offset, dims;
  bool interleaved;
  int padding;
};

TEST_F(ElementwiseParity, RopeRotatesAsTheCpuAndLeavesTheRest) {
  const int positions = 5000;
  const Angles angles(positions, 32);
  const float* cos = Upload(angles.cos);
  const float* sin = Upload(angles.sin);
  for (const RopeShape& s :
       {RopeShape{3, 128, 192, 128, 64, true, 0}, RopeShape{17, 4, 192, 128, 64, true, 4},
        RopeShape{5, 64, 128, 0, 64, false, 0}, RopeShape{1, 8, 128, 0, 64, false, 8},
        RopeShape{33, 1, 128, 0, 64, false, 0}, RopeShape{70, 1, 64, 0, 64, true, 512},
        RopeShape{1, 1, 64, 0, 64, true, 12}, RopeShape{6, 3, 132, 4, 64, false, 0}}) {
    TestMatrix want =
        TestMatrix::Random(s.rows, s.heads * s.head_stride, s.rows + s.heads, kBf16, s.padding);
    std::vector<int32_t> at(s.rows);
    for (int r = 0; r < s.rows; ++r) at[r] = r == 0 ? positions - 1 : r * 977 % positions;
    const int32_t* at_device = Upload(at);
    const TestMatrix before = want;
    const TestMatrix got = InPlace(before, [&](const Matrix& x) {
      gpu_->Rope({x, s.heads, s.head_stride, s.offset, s.dims, s.interleaved, at_device, cos, sin});
    });
    cpu_->Rope({want.view(), s.heads, s.head_stride, s.offset, s.dims, s.interleaved, at.data(),
                angles.cos.data(), angles.sin.data()});
    ExpectSameButForRounding(got, want, /*absolute=*/2e-6);
    for (int r = 0; r < s.rows; ++r) {
      for (int c = 0; c < before.cols(); ++c) {
        const int d = c % s.head_stride - s.offset;
        const bool rotated = d >= 0 && d < s.dims;
        ASSERT_TRUE(rotated || got.At(r, c) == before.At(r, c)) << r << "," << c;
      }
    }
  }
}

// The key of kv = [latent 512 | key 64], as the model ropes it.
TEST_F(ElementwiseParity, RopeOfAColumnRange) {
  const Angles angles(200, 32);
  const std::vector<int32_t> at = {199, 0, 7};
  TestMatrix want = TestMatrix::Random(3, 576, 5, kBf16);
  const auto key_of = [](Matrix kv) {
    kv.data = static_cast<std::byte*>(kv.data) + 512 * sizeof(uint16_t);
    kv.cols = 64;
    return kv;
  };
  const TestMatrix got = InPlace(want, [&](const Matrix& kv) {
    gpu_->Rope(
        {key_of(kv), 1, 64, 0, 64, true, Upload(at), Upload(angles.cos), Upload(angles.sin)});
  });
  cpu_->Rope(
      {key_of(want.view()), 1, 64, 0, 64, true, at.data(), angles.cos.data(), angles.sin.data()});
  ExpectSameButForRounding(got, want, /*absolute=*/2e-6);
}

// ---- Hadamard

TEST_F(ElementwiseParity, HadamardGivesTheBitsOfTheCpu) {
  for (const Shape& s : {Shape{1, 128, 0}, Shape{3, 8192, 0}, Shape{5, 1024, 4}, Shape{33, 128, 8},
                         Shape{300, 256, 0}}) {
    TestMatrix want = TestMatrix::Random(s.rows, s.cols, 7 + s.rows, kBf16, s.padding);
    for (int c = 0; c < s.cols; ++c) want.Set(0, c, std::ldexp(float(want.At(0, c)), c % 31 - 15));
    const TestMatrix got = InPlace(want, [&](const Matrix& x) { gpu_->Hadamard({x}); });
    cpu_->Hadamard({want.view()});
    EXPECT_TRUE(got.SameBytes(want)) << s.rows << " x " << s.cols;
  }
}

// ---- SiluMul

TEST_F(ElementwiseParity, SiluMulFollowsTheCpuAndQuantizesItsRoundedOutput) {
  for (const Shape& s : {Shape{1, 2048, 0}, Shape{3, 18432, 0}, Shape{9, 768, 8}, Shape{17, 128, 4},
                         Shape{40, 256, 0}}) {
    TestMatrix x = SpecialMatrix({s.rows, 2 * s.cols, s.padding}, 11, /*nan=*/true);
    for (int c = 0; c < s.cols; ++c) x.Set(0, c, float(c % 401 - 200));  // to both ends of exp
    for (int r = 2; r < s.rows; r += 8) {  // huge gates; the product must stay finite
      for (int c = 0; c < s.cols; ++c) x.Set(r, s.cols + c, 1.0f / float(c % 9 + 1));
    }
    TestMatrix want(s.rows, s.cols, kBf16, s.padding);
    cpu_->SiluMul({x.view(), want.view(), {}});

    const Matrix x_device = Upload(x);
    TestMatrix got(s.rows, s.cols, kBf16, s.padding);
    const Matrix out = Upload(got);
    const Quantized both = PoisonedQuantized(s.rows, s.cols);
    gpu_->SiluMul({x_device, out, both});
    Download(out, got);
    ExpectSameButForRounding(got, want, /*absolute=*/1e-37);

    const TestQuantized want8(s.rows, s.cols);
    cpu_->Quantize({got.view(), want8.view()});
    ExpectSame(both, want8.view());
    const Quantized alone = PoisonedQuantized(s.rows, s.cols);
    gpu_->SiluMul({x_device, {}, alone});
    ExpectSame(alone, want8.view());
  }
}

TEST_F(ElementwiseParity, SiluMulWithoutFp8TakesAnyWidthOfWholePacks) {
  const TestMatrix x = TestMatrix::Random(5, 2 * 72, 12, kBf16, 16);
  TestMatrix want(5, 72, kBf16), got(5, 72, kBf16);
  cpu_->SiluMul({x.view(), want.view(), {}});
  const Matrix out = Upload(got);
  gpu_->SiluMul({Upload(x), out, {}});
  Download(out, got);
  ExpectSameButForRounding(got, want);
}

// ---- ScaleIndexWeights

TEST_F(ElementwiseParity, ScaleIndexWeightsGivesTheBitsOfTheCpu) {
  for (const auto& [rows, heads] : {std::pair{1, 8}, {1, 64}, {37, 64}, {515, 8}}) {
    const size_t count = size_t(rows) * heads;
    std::vector<float> weights = RandomFloats(count, 1);
    std::vector<float> scales(count);
    for (size_t i = 0; i < count; ++i) scales[i] = std::ldexp(1.0f, int(i % 29) - 20);
    const float* scales_device = Upload(scales);
    for (const bool scaled : {true, false}) {
      float* got = Upload(weights);
      gpu_->ScaleIndexWeights({got, rows, heads, scaled ? scales_device : nullptr, 0.0110485f});
      std::vector<float> want = weights;
      cpu_->ScaleIndexWeights(
          {want.data(), rows, heads, scaled ? scales.data() : nullptr, 0.0110485f});
      EXPECT_EQ(Download(got, count), want);
    }
  }
}

// ---- All of them

// The ops in place or into `out`, one after another.
TEST_F(ElementwiseParity, ARowAloneAndInABatchHasTheSameBits) {
  const int rows = 70, cols = 512;
  const Angles angles(1000, 32);
  const float* cos = Upload(angles.cos);
  const float* sin = Upload(angles.sin);
  const auto run = [&](const TestMatrix& m, int first_position) {
    std::vector<int32_t> at(m.rows());
    for (int r = 0; r < m.rows(); ++r) at[r] = first_position + r;
    const int32_t* positions = Upload(at);
    TestMatrix out(m.rows(), cols / 2, kBf16);
    const Matrix x = Upload(m);
    const Matrix y = Upload(out);
    gpu_->Rope({x, 4, 128, 0, 64, false, positions, cos, sin});
    gpu_->Rope({x, 2, 256, 192, 64, true, positions, cos, sin});
    gpu_->Hadamard({x});
    gpu_->SiluMul({x, y, {}});
    Download(y, out);
    return out;
  };
  const TestMatrix x = TestMatrix::Random(rows, cols, 21, kBf16);
  const TestMatrix batch = run(x, 100);
  EXPECT_TRUE(batch.SameBytes(run(x, 100))) << "twice the same";
  for (int r : {0, 1, 33, 69}) {
    EXPECT_TRUE(RowOf(batch, r).SameBytes(run(RowOf(x, r), 100 + r))) << "row " << r;
  }
}

TEST_F(ElementwiseParity, NoRowsLaunchNothing) {
  const TestMatrix none(0, 256, kBf16);
  gpu_->Quantize({none.view(), TestQuantized(0, 256).view()});
  gpu_->Hadamard({none.view()});
  gpu_->Rope({none.view(), 2, 128, 0, 64, true, nullptr, nullptr, nullptr});
  gpu_->SiluMul({none.view(), TestMatrix(0, 128, kBf16).view(), {}});
  gpu_->ScaleIndexWeights({nullptr, 0, 64, nullptr, 1.0f});
  gpu_->Synchronize();
}

using ElementwiseParityDeath = ElementwiseParity;

TEST_F(ElementwiseParityDeath, RefusesWhatItCannotServe) {
  const TestMatrix f32(2, 256);
  const TestMatrix odd(2, 256, kBf16, /*padding=*/1);
  const TestQuantized out(2, 256);
  EXPECT_DEATH(gpu_->Quantize({f32.view(), out.view()}), "bf16 activations");
  EXPECT_DEATH(gpu_->Quantize({odd.view(), out.view()}), "aligned to 8 bytes");
  EXPECT_DEATH(gpu_->SiluMul({TestMatrix(2, 24, kBf16).view(), {}, {}}), "packs of eight");
}

}  // namespace
}  // namespace baleen::kernels
