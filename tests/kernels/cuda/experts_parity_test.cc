#include "kernels/cuda/parity.h"

namespace baleen::kernels {
namespace {

using testing::TestBf16Weight;
using testing::TestFp8Weight;
using testing::TestMatrix;

// An fp8 or bf16 weight given by its values, which both can hold; fp8 has scales 1/2, 1 and 2.
struct ValueWeight {
  ValueWeight(int out, int in, std::vector<float> v, bool fp8, std::mt19937& rng)
      : values(std::move(v)) {
    const int blocks = (in + 127) / 128;
    for (int i = 0; i < (out + 127) / 128 * blocks; ++i) {
      scales.push_back(std::ldexp(1.0f, int(rng() % 3) - 1));
    }
    for (int64_t i = 0; i < int64_t{out} * in; ++i) {
      if (fp8) {
        bytes.push_back(F32ToE4m3(values[i] / scales[i / in / 128 * blocks + i % in / 128]));
        continue;
      }
      const uint16_t bits = F32ToBf16(values[i]);
      bytes.push_back(uint8_t(bits));
      bytes.push_back(uint8_t(bits >> 8));
    }
    native = {
        bytes.data(), fp8 ? DType::kF8E4M3 : DType::kBf16, fp8 ? scales.data() : nullptr, out, in,
        fp8};
    dequantized = {values.data(), DType::kF32, nullptr, out, in, fp8};
  }
  ValueWeight(const ValueWeight&) = delete;

  std::vector<float> values;
  std::vector<uint8_t> bytes;
  std::vector<float> scales;
  Weight native, dequantized;
};

// Experts whose every intermediate result is exact in every format it is stored in, whatever the
// order of the sums. Column 0 of x is 4 and the others are -1, 0 or 1. gate is 32 or 64, where
// silu(gate) is gate in f32; up is a sum of 15 elements of x with signs; so the products between
// have four significant bits. Results must be equal bit for bit.
struct ExactExperts {
  ExactExperts(int experts, int dim, int width, bool fp8) {
    std::mt19937 rng(experts + dim);
    for (int e = 0; e < experts; ++e) {
      std::vector<float> up(size_t(2) * width * dim);
      for (int w = 0; w < width; ++w) {
        up[size_t(w) * dim] = rng() % 2 ? 8.0f : 16.0f;
        float* row = &up[size_t(width + w) * dim];
        for (int i = 0; i < 15; ++i) row[1 + rng() % (dim - 1)] = rng() % 2 ? 1.0f : -1.0f;
      }
      gate_up.push_back(std::make_unique<ValueWeight>(2 * width, dim, std::move(up), fp8, rng));
      std::vector<float> values(size_t(dim) * width);
      for (float& v : values) v = float(int(rng() % 4) - 1) * float(rng() % 2);
      down.push_back(std::make_unique<ValueWeight>(dim, width, std::move(values), fp8, rng));
    }
  }

  static TestMatrix Input(int rows, int dim, uint32_t seed) {
    TestMatrix x(rows, dim, DType::kBf16);
    std::mt19937 rng(seed);
    for (int r = 0; r < rows; ++r) {
      x.Set(r, 0, 4.0f);
      for (int c = 1; c < dim; ++c) x.Set(r, c, float(int(rng() % 3) - 1));
    }
    return x;
  }

  std::vector<std::unique_ptr<ValueWeight>> gate_up, down;
};

// Random experts of one type.
template <typename TestWeight>
struct RandomExperts {
  RandomExperts(int experts, int dim, int width) {
    for (int e = 0; e < experts; ++e) {
      gate_up.push_back(std::make_unique<TestWeight>(2 * width, dim, 100 + e));
      down.push_back(std::make_unique<TestWeight>(dim, width, 200 + e));
    }
  }
  std::vector<std::unique_ptr<TestWeight>> gate_up, down;
};

// `topk` different experts for each row.
std::vector<int32_t> RandomIds(int rows, int topk, int experts, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<int32_t> all(experts), ids;
  for (int e = 0; e < experts; ++e) all[e] = e;
  for (int r = 0; r < rows; ++r) {
    std::shuffle(all.begin(), all.end(), rng);
    std::sort(all.begin(), all.begin() + topk);
    ids.insert(ids.end(), all.begin(), all.begin() + topk);
  }
  return ids;
}

class ExpertsParity : public testing::GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (gpu_ == nullptr) return;
    ReserveScratch({.rows = 700,
                    .expert_rows = 700,
                    .experts = 256,
                    .experts_per_row = 8,
                    .expert_width = 2048});
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

  // The weights of experts [first, first + count) in host memory for the CPU and on the device.
  struct Loaded {
    int first = 0, count = 0;
    bool fp8 = false;
    std::vector<Weight> cpu_gate_up, cpu_down, gpu_gate_up, gpu_down;
  };
  template <typename Experts>
  Loaded Load(const Experts& experts, int first, int count) {
    Loaded l;
    l.first = first;
    l.count = count;
    l.fp8 = experts.down[0]->native.fp8_input;
    for (int e = first; e < first + count; ++e) {
      l.cpu_gate_up.push_back(experts.gate_up[e]->dequantized);
      l.cpu_down.push_back(experts.down[e]->dequantized);
      l.gpu_gate_up.push_back(OnDevice(experts.gate_up[e]->native));
      l.gpu_down.push_back(OnDevice(experts.down[e]->native));
    }
    return l;
  }

  TestMatrix OnCpu(const Loaded& l, const TestMatrix& x, const std::vector<int32_t>& ids, int topk,
                   int padding = 0) {
    testing::TestQuantized xq(x.rows(), x.cols());
    if (l.fp8) cpu_->Quantize({x.view(), xq.view()});
    TestMatrix out(x.rows() * topk, x.cols(), DType::kBf16, padding);
    cpu_->Experts({x.view(), l.fp8 ? xq.view() : Quantized{}, ids.data(), topk, l.first, l.count,
                   l.cpu_gate_up.data(), l.cpu_down.data(), out.view()});
    return out;
  }
  TestMatrix OnGpu(const Loaded& l, const TestMatrix& x, const std::vector<int32_t>& ids, int topk,
                   int padding = 0) {
    testing::TestQuantized xq(x.rows(), x.cols());
    if (l.fp8) cpu_->Quantize({x.view(), xq.view()});
    TestMatrix out(x.rows() * topk, x.cols(), DType::kBf16, padding);
    const Matrix device = Upload(out);
    gpu_->Experts({Upload(x), l.fp8 ? Upload(xq.view()) : Quantized{}, Upload(ids), topk, l.first,
                   l.count, l.gpu_gate_up.data(), l.gpu_down.data(), device});
    Download(device, out);
    return out;
  }

  // Bit for bit; what belongs to nobody and what lies between rows is untouched.
  void ExpectExact(const Loaded& l, const TestMatrix& x, const std::vector<int32_t>& ids, int topk,
                   int padding = 0) {
    SCOPED_TRACE(::testing::Message() << x.rows() << " rows, top " << topk << ", experts "
                                      << l.first << " + " << l.count << (l.fp8 ? " fp8" : " bf16"));
    const TestMatrix want = OnCpu(l, x, ids, topk, padding);
    const TestMatrix got = OnGpu(l, x, ids, topk, padding);
    if (got.SameBytes(want)) return;
    for (int r = 0; r < want.rows(); ++r) {
      for (int c = 0; c < want.cols(); ++c) {
        if (std::isnan(want.At(r, c)) && std::isnan(got.At(r, c))) continue;
        ASSERT_EQ(got.At(r, c), want.At(r, c))
            << "pair " << r << " of expert " << ids[r] << " column " << c;
      }
    }
    FAIL() << "written beyond the results";
  }
};

class ExactExpertsParity : public ExpertsParity, public ::testing::WithParamInterface<bool> {
 protected:
  bool fp8() const { return GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(Types, ExactExpertsParity, ::testing::Values(true, false),
                         [](const auto& fp8) { return fp8.param ? "Fp8" : "Bf16"; });

TEST_P(ExactExpertsParity, SizesOfTheTinyModel) {
  const ExactExperts experts(16, 256, 128, fp8());
  const Loaded all = Load(experts, 0, 16);
  const Loaded half = Load(experts, 4, 8);
  for (const int rows : {0, 1, 2, 7, 33, 64, 65, 130, 300}) {
    const TestMatrix x = ExactExperts::Input(rows, 256, rows);
    const std::vector<int32_t> ids = RandomIds(rows, 4, 16, rows);
    ExpectExact(all, x, ids, 4);
    ExpectExact(half, x, ids, 4, /*padding=*/rows % 2 * 3);
  }
}

TEST_P(ExactExpertsParity, OddSizesAndAStrideThatIsNoMultipleOf16Bytes) {
  const ExactExperts experts(5, 384, 256, fp8());
  const Loaded l = Load(experts, 1, 3);
  for (const int rows : {1, 77, 150}) {
    const TestMatrix x = ExactExperts::Input(rows, 384, rows);
    ExpectExact(l, x, RandomIds(rows, 3, 5, rows), 3, /*padding=*/1);
  }
}

TEST_P(ExactExpertsParity, ManyPairsOfFewExperts) {
  const ExactExperts experts(4, 256, 128, fp8());
  const Loaded l = Load(experts, 0, 4);
  const TestMatrix x = ExactExperts::Input(600, 256, 1);
  ExpectExact(l, x, RandomIds(600, 2, 4, 2), 2);
  ExpectExact(l, x, std::vector<int32_t>(600, 2), 1);  // the others have none
  // Few and many pairs side by side: 64, 65, 1 and 470.
  std::vector<int32_t> ids(600, 3);
  std::fill(ids.begin(), ids.begin() + 64, 0);
  std::fill(ids.begin() + 200, ids.begin() + 265, 1);
  ids[500] = 2;
  ExpectExact(l, x, ids, 1);
}

TEST_P(ExactExpertsParity, NoPairsAndRepeatedExperts) {
  const ExactExperts experts(4, 256, 128, fp8());
  const Loaded l = Load(experts, 1, 2);
  const TestMatrix x = ExactExperts::Input(40, 256, 1);
  ExpectExact(l, x, std::vector<int32_t>(160, -1), 4);
  ExpectExact(l, x, std::vector<int32_t>(160, 0), 4);  // another process's
  ExpectExact(l, x, std::vector<int32_t>(160, 3), 4);
  ExpectExact(l, x, std::vector<int32_t>(160, 2), 4);  // more pairs than rows
  std::vector<int32_t> ids(160, -1);
  ids[157] = 1;
  ExpectExact(l, x, ids, 4);
}

TEST_P(ExactExpertsParity, AsManyExpertsAsV32) {
  const ExactExperts experts(256, 256, 128, fp8());
  const Loaded all = Load(experts, 0, 256);
  const Loaded rank = Load(experts, 224, 32);
  for (const int rows : {1, 50, 513}) {
    const TestMatrix x = ExactExperts::Input(rows, 256, rows);
    const std::vector<int32_t> ids = RandomIds(rows, 8, 256, rows);
    ExpectExact(all, x, ids, 8);
    ExpectExact(rank, x, ids, 8);
  }
}

double RootMeanSquare(const std::vector<double>& v) {
  double sum = 0;
  for (const double x : v) sum += x * x;
  return std::sqrt(sum / double(v.size()));
}

// The tensor core's fp8 sums differ from exact ones by about 2^-11; that moves one in five values
// between the products by a bf16 step, and some of these, about 2 %, by an e4m3 step of up to 1/8.
// A result is a sum of such values with random signs, so 1 to 2 % of its standard deviation.
TEST_F(ExpertsParity, MatchesTheCpuAtSizesOfV32) {
  const int dim = 7168, width = 2048, topk = 2;
  const RandomExperts<TestFp8Weight> experts(2, dim, width);
  const Loaded l = Load(experts, 0, 2);
  const TestMatrix x = TestMatrix::Random(3, dim, 5, DType::kBf16);
  const std::vector<int32_t> ids = {0, 1, 1, 5, 0, -1};
  const TestMatrix want = OnCpu(l, x, ids, topk);
  const TestMatrix got = OnGpu(l, x, ids, topk);
  for (int r = 0; r < want.rows(); ++r) {
    if (ids[r] < 0 || ids[r] > 1) {
      for (int c = 0; c < dim; ++c) ASSERT_TRUE(std::isnan(got.At(r, c))) << r;
      continue;
    }
    std::vector<double> errors, values;
    for (int c = 0; c < dim; ++c) {
      values.push_back(want.At(r, c));
      errors.push_back(got.At(r, c) - want.At(r, c));
      ASSERT_FALSE(std::isnan(errors.back())) << "row " << r << " column " << c;
    }
    EXPECT_LE(RootMeanSquare(errors), 0.03 * RootMeanSquare(values)) << r;
    for (const double e : errors) ASSERT_LE(std::fabs(e), 0.15 * RootMeanSquare(values)) << r;
  }
}

TEST_F(ExpertsParity, Bf16MatchesTheCpu) {
  const int dim = 1024, width = 320, topk = 3;
  const RandomExperts<TestBf16Weight> experts(6, dim, width);
  const Loaded l = Load(experts, 0, 6);
  const TestMatrix x = TestMatrix::Random(90, dim, 5, DType::kBf16);
  const std::vector<int32_t> ids = RandomIds(90, topk, 6, 7);
  const TestMatrix want = OnCpu(l, x, ids, topk);
  const TestMatrix got = OnGpu(l, x, ids, topk);
  for (int r = 0; r < want.rows(); ++r) {
    for (int c = 0; c < dim; ++c) {
      // A few of 320 values between the products move by one bf16 step.
      ASSERT_NEAR(got.At(r, c), want.At(r, c), 0.004 + std::fabs(want.At(r, c)) / 128)
          << "pair " << r << " column " << c;
    }
  }
}

TEST_F(ExpertsParity, ARowsBitsDoNotDependOnItsBatch) {
  const int rows = 300, dim = 512, topk = 4, first = 7;
  const RandomExperts<TestFp8Weight> experts(8, dim, 256);
  const RandomExperts<TestBf16Weight> experts16(8, dim, 256);
  const TestMatrix x = TestMatrix::Random(rows, dim, 3, DType::kBf16);
  const std::vector<int32_t> ids = RandomIds(rows, topk, 8, 4);
  for (const Loaded& l : {Load(experts, 0, 8), Load(experts16, 0, 8)}) {
    const TestMatrix all = OnGpu(l, x, ids, topk);
    EXPECT_TRUE(all.SameBytes(OnGpu(l, x, ids, topk)));
    for (const int count : {1, 5, 64, 65, 200}) {
      TestMatrix part(count, dim, DType::kBf16);
      std::memcpy(part.view().data, x.view().row<uint16_t>(first), size_t(count) * dim * 2);
      const std::vector<int32_t> part_ids(ids.begin() + first * topk,
                                          ids.begin() + (first + count) * topk);
      const TestMatrix got = OnGpu(l, part, part_ids, topk);
      ASSERT_EQ(std::memcmp(got.view().data, all.view().row<uint16_t>(int64_t{first} * topk),
                            size_t(count) * topk * dim * 2),
                0)
          << count << " rows";
    }
  }
}

// K of these sizes is one chunk in Linear too.
TEST_F(ExpertsParity, EqualsTheSeparateOpsBitForBit) {
  const int rows = 70, dim = 256, width = 128;
  const RandomExperts<TestFp8Weight> experts(1, dim, width);
  const Loaded l = Load(experts, 0, 1);
  const TestMatrix x = TestMatrix::Random(rows, dim, 3, DType::kBf16);
  const TestMatrix got = OnGpu(l, x, std::vector<int32_t>(rows, 0), /*topk=*/1);

  testing::TestQuantized xq(rows, dim);
  cpu_->Quantize({x.view(), xq.view()});
  const TestMatrix up(rows, 2 * width, DType::kBf16), mid(rows, width, DType::kBf16);
  TestMatrix want(rows, dim, DType::kBf16);
  const Matrix device_up = Upload(up), device_mid = Upload(mid), device_want = Upload(want);
  const Quantized mid8 = PoisonedQuantized(rows, width);
  gpu_->Linear({{}, Upload(xq.view()), l.gpu_gate_up[0], device_up});
  gpu_->SiluMul({device_up, device_mid, mid8});
  gpu_->Linear({{}, mid8, l.gpu_down[0], device_want});
  Download(device_want, want);
  EXPECT_TRUE(got.SameBytes(want));
}

}  // namespace
}  // namespace baleen::kernels
