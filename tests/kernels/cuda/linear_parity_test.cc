#include "kernels/cuda/parity.h"

namespace baleen::kernels {
namespace {

using testing::RandomFloats;
using testing::RowOf;
using testing::TestBf16Weight;
using testing::TestFp8Weight;
using testing::TestMatrix;

constexpr int kMaxRows = 700;

struct Size {
  int out, in;
};

// Small whole numbers: every sum of products is exact, in whatever order and with the few bits that
// the tensor core keeps of an fp8 sum. So results must be equal bit for bit.
int SmallNumber(std::mt19937& rng, int most) { return int(rng() % (2 * most + 1)) - most; }

// A weight of whole numbers up to 2, with scales 1/2, 1 and 2 where it is fp8.
struct ExactWeight {
  ExactWeight(Size size, bool fp8, uint32_t seed) {
    const int blocks = (size.in + 127) / 128;
    std::mt19937 rng(seed);
    for (int i = 0; i < (size.out + 127) / 128 * blocks; ++i) {
      scales.push_back(std::ldexp(1.0f, SmallNumber(rng, 1)));
    }
    for (int64_t i = 0; i < int64_t{size.out} * size.in; ++i) {
      const auto v = static_cast<float>(SmallNumber(rng, 2));
      const int64_t block = i / size.in / 128 * blocks + i % size.in / 128;
      floats.push_back(fp8 ? v * scales[block] : v);
      if (fp8) {
        bytes.push_back(F32ToE4m3(v));
      } else {
        const uint16_t bits = F32ToBf16(v);
        bytes.push_back(uint8_t(bits));
        bytes.push_back(uint8_t(bits >> 8));
      }
    }
    native = {bytes.data(),
              fp8 ? DType::kF8E4M3 : DType::kBf16,
              fp8 ? scales.data() : nullptr,
              size.out,
              size.in,
              fp8};
    dequantized = {floats.data(), DType::kF32, nullptr, size.out, size.in, fp8};
  }
  ExactWeight(const ExactWeight&) = delete;

  std::vector<uint8_t> bytes;
  std::vector<float> scales, floats;
  Weight native, dequantized;
};

// Rows of whole numbers up to 2 in fp8, with scales 1/2, 1 and 2.
struct ExactRows {
  ExactRows(int rows, int cols, uint32_t seed) {
    std::mt19937 rng(seed);
    bytes.reserve(size_t(rows) * cols + 1);  // not nullptr without rows
    for (int64_t i = 0; i < int64_t{rows} * cols; ++i) {
      bytes.push_back(F32ToE4m3(float(SmallNumber(rng, 2))));
    }
    for (int64_t i = 0; i < int64_t{rows} * cols / 128; ++i) {
      scales.push_back(std::ldexp(1.0f, SmallNumber(rng, 1)));
    }
    view = {bytes.data(), scales.data(), rows, cols};
  }
  ExactRows(const ExactRows&) = delete;

  std::vector<uint8_t> bytes;
  std::vector<float> scales;
  Quantized view;
};

TestMatrix ExactMatrix(int rows, int cols, uint32_t seed, int padding) {
  TestMatrix m(rows, cols, DType::kBf16, padding);
  std::mt19937 rng(seed);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < cols; ++c) m.Set(r, c, float(SmallNumber(rng, 3)));
  }
  return m;
}

class LinearParity : public testing::GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (gpu_ != nullptr) ReserveScratch({.rows = kMaxRows, .head_rows = 1});
  }

  Weight OnDevice(const Weight& w) {
    Weight device = w;
    const auto* bytes = static_cast<const uint8_t*>(w.data);
    device.data = Upload(bytes, size_t(w.out) * w.in * DTypeBytes(w.dtype));
    if (w.scales != nullptr) {
      device.scales = Upload(w.scales, size_t((w.out + 127) / 128) * ((w.in + 127) / 128));
    }
    return device;
  }

  // `x` and `xq` on the device; y is poisoned before.
  TestMatrix OnGpu(const Matrix& x, const Quantized& xq, const Weight& w, int rows, DType dtype,
                   int padding = 0) {
    TestMatrix y(rows, w.out, dtype, padding);
    const Matrix device = Upload(y);
    gpu_->Linear({x, xq, w, device});
    Download(device, y);
    return y;
  }
  TestMatrix OnCpu(const Matrix& x, const Quantized& xq, const Weight& w, int rows, DType dtype,
                   int padding = 0) {
    TestMatrix y(rows, w.out, dtype, padding);
    cpu_->Linear({x, xq, w, y.view()});
    return y;
  }

  void ExpectExactFp8(Size size, const std::vector<int>& row_counts) {
    const ExactWeight w(size, /*fp8=*/true, size.out + size.in);
    const Weight device = OnDevice(w.native);
    for (const int rows : row_counts) {
      const ExactRows x(rows, size.in, rows);
      const Quantized xq = Upload(x.view);
      for (const auto& [dtype, padding] :
           {std::pair{DType::kBf16, 0}, {DType::kBf16, 3}, {DType::kBf16, 8}, {DType::kF32, 1}}) {
        const TestMatrix want = OnCpu({}, x.view, w.dequantized, rows, dtype, padding);
        const TestMatrix got = OnGpu({}, xq, device, rows, dtype, padding);
        ExpectEqual(got, want, size);
      }
    }
  }
  void ExpectExactBf16(Size size, const std::vector<int>& row_counts) {
    const ExactWeight w(size, /*fp8=*/false, size.out + size.in);
    const Weight device = OnDevice(w.native);
    for (const int rows : row_counts) {
      const TestMatrix x = ExactMatrix(rows, size.in, rows, rows % 2 * 8);
      const Matrix device_x = Upload(x);
      for (const auto& [dtype, padding] :
           {std::pair{DType::kF32, 0}, {DType::kF32, 3}, {DType::kBf16, 0}, {DType::kBf16, 1}}) {
        const TestMatrix want = OnCpu(x.view(), {}, w.dequantized, rows, dtype, padding);
        const TestMatrix got = OnGpu(device_x, {}, device, rows, dtype, padding);
        ExpectEqual(got, want, size);
      }
    }
  }

  // Bit for bit, what lies between the rows too.
  static void ExpectEqual(const TestMatrix& got, const TestMatrix& want, Size size) {
    if (got.SameBytes(want)) return;
    for (int r = 0; r < want.rows(); ++r) {
      for (int c = 0; c < want.cols(); ++c) {
        ASSERT_EQ(got.At(r, c), want.At(r, c)) << size.out << "x" << size.in << ", " << want.rows()
                                               << " rows: row " << r << " column " << c;
      }
    }
    FAIL() << size.out << "x" << size.in << ", " << want.rows() << " rows: written between rows";
  }
};

// Errors of an fp8 product: the tensor core truncates each product and each sum of 32 to about 13
// bits below the largest of them, in random directions. Relative to a result of K terms that comes
// to about 2^-11 of its standard deviation, whatever K is; eight times that is allowed.
constexpr double kFp8Error = 4e-3;

double RootMeanSquare(const TestMatrix& m) {
  double sum = 0;
  for (int r = 0; r < m.rows(); ++r) {
    for (int c = 0; c < m.cols(); ++c) sum += m.At(r, c) * m.At(r, c);
  }
  return std::sqrt(sum / (double(m.rows()) * m.cols()));
}

void ExpectNear(const TestMatrix& got, const TestMatrix& want, double absolute) {
  const double relative = want.dtype() == DType::kBf16 ? 1.0 / 128 : 1e-5;
  double worst = 0;
  for (int r = 0; r < want.rows(); ++r) {
    for (int c = 0; c < want.cols(); ++c) {
      const double tolerance = absolute + relative * std::fabs(want.At(r, c));
      const double error = std::fabs(got.At(r, c) - want.At(r, c));
      ASSERT_LE(error, tolerance) << "row " << r << " column " << c << ": got " << got.At(r, c)
                                  << ", want " << want.At(r, c);
      worst = std::max(worst, error / tolerance);
    }
  }
  ::testing::Test::RecordProperty("worst_error_over_tolerance", std::to_string(worst));
}

// Rows [first, first + count) on the device.
Quantized RowRange(const Quantized& q, int first, int count) {
  return {q.data + int64_t{first} * q.cols, q.scales + int64_t{first} * (q.cols / 128), count,
          q.cols};
}
Matrix RowRange(const Matrix& m, int first, int count) {
  Matrix part = m;
  part.data = m.row<uint16_t>(first);
  part.rows = count;
  return part;
}

void ExpectSameRows(const TestMatrix& part, const TestMatrix& all, int first) {
  const size_t bytes = part.view().stride * DTypeBytes(part.dtype());
  for (int r = 0; r < part.rows(); ++r) {
    ASSERT_EQ(std::memcmp(part.view().row<uint8_t>(0) + r * bytes,
                          all.view().row<uint8_t>(0) + (first + r) * bytes, bytes),
              0)
        << "row " << r << " of " << part.rows();
  }
}

// Row counts on both sides of every tile and every change of shape.
const std::vector<int> kRowCounts = {0,  1,  2,   8,   9,   16,  17,  33,
                                     64, 65, 127, 128, 129, 256, 257, 400};

TEST_F(LinearParity, Fp8IsExactOnWholeNumbersAtSizesOfTheTinyModel) {
  for (const Size size : {Size{128, 256}, {576, 256}, {768, 128}, {256, 512}, {1536, 256}}) {
    ExpectExactFp8(size, kRowCounts);
  }
}

TEST_F(LinearParity, Fp8IsExactOnWholeNumbersAtOddSizes) {
  for (const Size size : {Size{1, 128}, {7, 256}, {8, 384}, {70, 640}, {130, 1024}, {257, 1152}}) {
    ExpectExactFp8(size, kRowCounts);
  }
}

TEST_F(LinearParity, Fp8IsExactOnWholeNumbersAtSizesOfV32) {
  ExpectExactFp8({128, 7168}, {1, 16, 64, 200, 300});
  ExpectExactFp8({576, 7168}, {1, 5, 130});
  ExpectExactFp8({1536, 7168}, {3});
  ExpectExactFp8({7168, 2048}, {2});
  ExpectExactFp8({24576, 128}, {1, 20});
  ExpectExactFp8({6208, 256}, {16, 64, 128, 300, 600});  // not cut: all shapes of the engine
}

TEST_F(LinearParity, Bf16IsExactOnWholeNumbersAtSizesOfTheTinyModel) {
  for (const Size size : {Size{16, 256}, {8, 256}, {4096, 256}, {256, 512}}) {
    ExpectExactBf16(size, {0, 1, 3, 16, 17, 64, 65, 130, 300});
  }
}

TEST_F(LinearParity, Bf16IsExactOnWholeNumbersAtOddSizes) {
  for (const Size size : {Size{1, 8}, {5, 72}, {64, 136}, {129, 200}, {300, 1000}}) {
    ExpectExactBf16(size, kRowCounts);
  }
}

TEST_F(LinearParity, Bf16IsExactOnWholeNumbersAtSizesOfV32) {
  ExpectExactBf16({256, 7168}, {1, 16, 100, 300});
  ExpectExactBf16({64, 7168}, {1, 33, 300});
  ExpectExactBf16({512, 14336}, {2});
  ExpectExactBf16({129280, 64}, {1, 5});
  ExpectExactBf16({6208, 192}, {128, 300, 600});
}

TEST_F(LinearParity, Fp8MatchesTheCpu) {
  const int rows = 3;
  for (const Size size : {Size{1536, 7168}, {576, 7168}, {128, 7168}, {512, 16384}, {768, 256}}) {
    for (const uint32_t seed : {1, 2}) {
      const TestFp8Weight w(size.out, size.in, seed);
      const TestMatrix x = TestMatrix::Random(rows, size.in, seed + 10, DType::kBf16);
      testing::TestQuantized xq(rows, size.in);
      cpu_->Quantize({x.view(), xq.view()});
      for (const DType dtype : {DType::kF32, DType::kBf16}) {
        const TestMatrix want = OnCpu({}, xq.view(), w.dequantized, rows, dtype);
        const TestMatrix got = OnGpu({}, Upload(xq.view()), OnDevice(w.native), rows, dtype);
        ExpectNear(got, want, kFp8Error * RootMeanSquare(want));
      }
    }
  }
}

TEST_F(LinearParity, Bf16MatchesTheCpu) {
  const int rows = 5;
  for (const Size size : {Size{256, 7168}, {64, 7168}, {512, 14336}, {4096, 256}, {16, 256}}) {
    const TestBf16Weight w(size.out, size.in, size.out);
    const TestMatrix x = TestMatrix::Random(rows, size.in, size.in, DType::kBf16, 8);
    for (const DType dtype : {DType::kF32, DType::kBf16}) {
      const TestMatrix want = OnCpu(x.view(), {}, w.dequantized, rows, dtype);
      const TestMatrix got = OnGpu(Upload(x), {}, OnDevice(w.native), rows, dtype);
      // A wgmma may drop bits below 2^-22 of the sum so far, which is of order one: in / 16 times,
      // in random directions but for a drift of the same order.
      ExpectNear(got, want, 4e-6 * std::sqrt(size.in) + 1e-5);
    }
  }
}

TEST_F(LinearParity, ARowsBitsDoNotDependOnItsBatch) {
  const int rows = 600;
  for (const Size size : {Size{576, 7168}, {6208, 384}, {192, 1280}}) {
    const TestFp8Weight w(size.out, size.in, 3);
    const TestMatrix x = TestMatrix::Random(rows, size.in, 4, DType::kBf16);
    testing::TestQuantized xq(rows, size.in);
    cpu_->Quantize({x.view(), xq.view()});
    const Quantized device_xq = Upload(xq.view());
    const Matrix device_x = Upload(x);
    const TestBf16Weight w16(size.out, size.in, 5);
    const Weight fp8 = OnDevice(w.native), bf16 = OnDevice(w16.native);
    for (const DType dtype : {DType::kF32, DType::kBf16}) {
      const TestMatrix all = OnGpu({}, device_xq, fp8, rows, dtype);
      const TestMatrix all16 = OnGpu(device_x, {}, bf16, rows, dtype);
      ASSERT_TRUE(all.SameBytes(OnGpu({}, device_xq, fp8, rows, dtype)));
      for (const int count : {1, 3, 16, 17, 64, 65, 128, 200, 256, 257, 320}) {
        const int first = 11;
        SCOPED_TRACE(::testing::Message() << size.out << "x" << size.in << " " << count << " rows");
        ExpectSameRows(OnGpu({}, RowRange(device_xq, first, count), fp8, count, dtype), all, first);
        ExpectSameRows(OnGpu(RowRange(device_x, first, count), {}, bf16, count, dtype), all16,
                       first);
      }
    }
  }
}

TEST_F(LinearParity, ExtremeRowsStayByThemselves) {
  const int rows = 24;
  const Size size = {200, 512};
  const TestFp8Weight w(size.out, size.in, 7);
  TestMatrix x = TestMatrix::Random(rows, size.in, 8, DType::kBf16);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < size.in; ++c) {
      const float v = float(x.At(r, c));
      if (r % 6 == 1) x.Set(r, c, 0);
      if (r % 6 == 2) x.Set(r, c, v * 1e30f);
      if (r % 6 == 3) x.Set(r, c, v * 1e-30f);
      if (r % 6 == 4) x.Set(r, c, c == 300 ? NAN : v);
    }
  }
  testing::TestQuantized xq(rows, size.in);
  cpu_->Quantize({x.view(), xq.view()});
  const TestMatrix want = OnCpu({}, xq.view(), w.dequantized, rows, DType::kF32);
  const TestMatrix got = OnGpu({}, Upload(xq.view()), OnDevice(w.native), rows, DType::kF32);
  for (int r = 0; r < rows; ++r) {
    const double tolerance = 3 * kFp8Error * RootMeanSquare(RowOf(want, r));
    for (int c = 0; c < size.out; ++c) {
      if (r % 6 == 4) {
        ASSERT_TRUE(std::isnan(got.At(r, c))) << r;
      } else {
        ASSERT_NEAR(got.At(r, c), want.At(r, c), tolerance) << "row " << r << " column " << c;
      }
    }
  }
}

class HeadLinearParity : public LinearParity {
 protected:
  struct Heads {
    int heads, stride, in, out;
  };

  TestMatrix Run(Backend& backend, const Heads& h, const Matrix& x, const void* w, DType w_dtype,
                 bool gpu, int padding, DType dtype) {
    TestMatrix y(x.rows, h.heads * h.out, dtype, padding);
    const Matrix view = gpu ? Upload(y) : y.view();
    backend.HeadLinear({x, h.heads, h.stride, w, w_dtype, h.out, h.in, view});
    if (gpu) Download(view, y);
    return y;
  }
};

TEST_F(HeadLinearParity, IsExactOnWholeNumbers) {
  for (const Heads& h : {Heads{4, 192, 128, 512},
                         {4, 512, 512, 128},
                         {3, 192, 128, 70},
                         {128, 192, 128, 64},
                         {5, 72, 72, 24}}) {
    const ExactWeight w({h.heads * h.out, h.in}, /*fp8=*/false, h.out);
    const Weight device = OnDevice(w.native);
    for (const int rows : {0, 1, 5, 16, 64, 65, 130, 300}) {
      const TestMatrix x = ExactMatrix(rows, h.heads * h.stride, rows, rows % 2 * 8);
      for (const auto& [dtype, padding] : {std::pair{DType::kBf16, 0}, {DType::kF32, 2}}) {
        const TestMatrix want =
            Run(*cpu_, h, x.view(), w.floats.data(), DType::kF32, false, padding, dtype);
        const TestMatrix got =
            Run(*gpu_, h, Upload(x), device.data, DType::kBf16, true, padding, dtype);
        ExpectEqual(got, want, {h.out, h.in});
      }
    }
  }
}

TEST_F(HeadLinearParity, ARowsBitsDoNotDependOnItsBatch) {
  const int rows = 300;
  for (const Heads& h : {Heads{16, 192, 128, 512}, {16, 512, 512, 128}}) {
    const TestBf16Weight w(h.heads * h.out, h.in, 3);
    const Weight device = OnDevice(w.native);
    const TestMatrix x = TestMatrix::Random(rows, h.heads * h.stride, 4, DType::kBf16);
    const Matrix device_x = Upload(x);
    const TestMatrix all =
        Run(*gpu_, h, device_x, device.data, DType::kBf16, true, 0, DType::kBf16);
    const TestMatrix want = Run(*cpu_, h, x.view(), static_cast<const void*>(w.dequantized.data),
                                DType::kF32, false, 0, DType::kBf16);
    ExpectNear(all, want, 1e-4);
    for (const int count : {1, 7, 16, 17, 64, 65, 129}) {
      ExpectSameRows(Run(*gpu_, h, RowRange(device_x, 9, count), device.data, DType::kBf16, true, 0,
                         DType::kBf16),
                     all, 9);
    }
  }
}

}  // namespace
}  // namespace baleen::kernels
