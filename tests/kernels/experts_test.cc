#include <cmath>
#include <cstring>
#include <random>

#include "kernels/testing.h"

namespace baleen::kernels {
namespace {

using testing::RandomFloats;
using testing::TestMatrix;
using testing::TestQuantized;

constexpr int kDim = 256;
constexpr int kWidth = 128;

// Weights of `experts` experts, small enough for outputs of order one.
struct TestExperts {
  TestExperts(int experts, bool fp8) {
    for (int e = 0; e < experts; ++e) {
      up.push_back(RandomFloats(2 * kWidth * kDim, 100 + e));
      down.push_back(RandomFloats(kDim * kWidth, 200 + e));
      for (float& w : up.back()) w *= 0.0625f;
      for (float& w : down.back()) w *= 0.0625f;
    }
    for (int e = 0; e < experts; ++e) {
      up_weights.push_back({up[e].data(), DType::kF32, nullptr, 2 * kWidth, kDim, fp8});
      down_weights.push_back({down[e].data(), DType::kF32, nullptr, kDim, kWidth, fp8});
    }
  }
  std::vector<std::vector<float>> up, down;
  std::vector<Weight> up_weights, down_weights;
};

class ExpertsOp : public ::testing::TestWithParam<DType> {
 protected:
  bool fp8() const { return GetParam() == DType::kBf16; }

  TestMatrix Run(Backend& backend, const TestMatrix& x, const std::vector<int32_t>& ids, int topk,
                 int first, int experts) {
    TestQuantized xq(x.rows(), kDim);
    if (fp8()) backend.Quantize({x.view(), xq.view()});
    TestMatrix out(x.rows() * topk, kDim, GetParam());
    backend.Experts({.x = x.view(),
                     .xq = fp8() ? xq.view() : Quantized{},
                     .ids = ids.data(),
                     .topk = topk,
                     .first_expert = first,
                     .experts = experts,
                     .gate_up = weights_.up_weights.data() + first,
                     .down = weights_.down_weights.data() + first,
                     .out = out.view()});
    return out;
  }

  // The same through Linear, SiluMul and Quantize, one row at a time.
  void ExpectRow(Backend& backend, const TestMatrix& x, int row, int expert, const TestMatrix& out,
                 int out_row) {
    TestMatrix in(1, kDim, GetParam()), gate_up(1, 2 * kWidth, GetParam());
    TestMatrix middle(1, kWidth, GetParam()), y(1, kDim, GetParam());
    for (int c = 0; c < kDim; ++c) in.Set(0, c, float(x.At(row, c)));
    TestQuantized in_q(1, kDim), middle_q(1, kWidth);
    const Quantized none;
    if (fp8()) backend.Quantize({in.view(), in_q.view()});
    backend.Linear(
        {in.view(), fp8() ? in_q.view() : none, weights_.up_weights[expert], gate_up.view()});
    backend.SiluMul({gate_up.view(), middle.view(), fp8() ? middle_q.view() : none});
    backend.Linear(
        {middle.view(), fp8() ? middle_q.view() : none, weights_.down_weights[expert], y.view()});
    for (int c = 0; c < kDim; ++c) {
      ASSERT_EQ(out.At(out_row, c), y.At(0, c)) << "row " << row << " expert " << expert;
    }
  }

  TestExperts weights_{6, GetParam() == DType::kBf16};
  std::unique_ptr<Backend> backend_ = MakeCpuBackend(2);
};
INSTANTIATE_TEST_SUITE_P(Both, ExpertsOp, ::testing::Values(DType::kF32, DType::kBf16));

TEST_P(ExpertsOp, EqualsTheSeparateOpsBitForBit) {
  const uint32_t seed = 41;
  std::mt19937 rng(seed);
  const int topk = 2;
  for (int rows : {1, 7, 130}) {
    const TestMatrix x = TestMatrix::Random(rows, kDim, rows, GetParam());
    std::vector<int32_t> ids;
    for (int r = 0; r < rows; ++r) {
      const int first = int(rng() % 5);
      ids.insert(ids.end(), {first, first + 1});
    }
    const TestMatrix out = Run(*backend_, x, ids, topk, 0, 6);
    for (int i = 0; i < rows * topk; ++i) ExpectRow(*backend_, x, i / topk, ids[i], out, i);
  }
}

TEST_P(ExpertsOp, LinearsMatchF64) {
  const TestMatrix x = TestMatrix::Random(1, kDim, 3);
  if (fp8()) return;  // compared bit for bit above
  const TestMatrix out = Run(*backend_, x, {4}, 1, 0, 6);
  std::vector<double> middle(kWidth);
  for (int w = 0; w < kWidth; ++w) {
    double gate = 0, up = 0;
    for (int c = 0; c < kDim; ++c) {
      gate += x.At(0, c) * weights_.up[4][w * kDim + c];
      up += x.At(0, c) * weights_.up[4][(w + kWidth) * kDim + c];
    }
    middle[w] = gate / (1 + std::exp(-gate)) * up;
  }
  for (int c = 0; c < kDim; ++c) {
    double want = 0;
    for (int w = 0; w < kWidth; ++w) want += middle[w] * weights_.down[4][c * kWidth + w];
    ASSERT_NEAR(out.At(0, c), want, 1e-5);
  }
}

TEST_P(ExpertsOp, ComputesOnlyThisProcesssExperts) {
  const TestMatrix x = TestMatrix::Random(3, kDim, 5, GetParam());
  const std::vector<int32_t> ids = {0, 3, 2, 5, -1, 4};
  const TestMatrix out = Run(*backend_, x, ids, 2, 2, 2);  // experts 2 and 3
  for (int i = 0; i < 6; ++i) {
    if (ids[i] == 2 || ids[i] == 3) {
      ExpectRow(*backend_, x, i / 2, ids[i], out, i);
    } else {
      for (int c = 0; c < kDim; ++c) ASSERT_TRUE(std::isnan(out.At(i, c))) << i;
    }
  }
}

TEST_P(ExpertsOp, ManyRowsOfOneExpertAndNoRows) {
  const TestMatrix x = TestMatrix::Random(200, kDim, 5, GetParam());
  const TestMatrix out = Run(*backend_, x, std::vector<int32_t>(200, 1), 1, 0, 6);
  for (int i : {0, 47, 48, 199}) ExpectRow(*backend_, x, i, 1, out, i);
  Run(*backend_, TestMatrix(0, kDim, GetParam()), {}, 2, 0, 6);
}

}  // namespace
}  // namespace baleen::kernels
