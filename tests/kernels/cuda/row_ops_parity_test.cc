#include "kernels/cuda/parity.h"

namespace baleen::kernels {
namespace {

using testing::ExpectSameButForRounding;
using testing::RandomFloats;
using testing::RowOf;
using testing::TestMatrix;

constexpr DType kBf16 = DType::kBf16;
constexpr DType kF32 = DType::kF32;

class RowOpsParity : public testing::GpuTest {
 protected:
  // What an op leaves in a poisoned matrix.
  template <class Op>
  TestMatrix Output(int rows, int cols, DType dtype, int padding, const Op& op) {
    TestMatrix out(rows, cols, dtype, padding);
    const Matrix device = Upload(out);
    op(device);
    Download(device, out);
    return out;
  }
};

std::vector<int32_t> RandomIndices(int count, int limit, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<int32_t> v(count);
  for (int32_t& i : v) i = int32_t(rng() % limit);
  v.front() = limit - 1;
  v.back() = 0;
  return v;
}

TEST_F(RowOpsParity, EmbedGivesTheBitsOfTheCpu) {
  for (const DType table_dtype : {kBf16, kF32}) {
    for (const auto& [rows, dim, padding] :
         {std::tuple{1, 7168, 0}, {5, 7168, 8}, {33, 256, 0}, {7, 264, 4}, {300, 128, 0}}) {
      const TestMatrix table = TestMatrix::Random(97, dim, 1, table_dtype, padding);
      const std::vector<int32_t> ids = RandomIndices(rows, 97, dim);
      TestMatrix want(rows, dim, kBf16, padding);
      cpu_->Embed({table.view(), ids.data(), want.view()});
      const TestMatrix got = Output(rows, dim, kBf16, padding, [&](const Matrix& out) {
        gpu_->Embed({Upload(table), Upload(ids), out});
      });
      EXPECT_TRUE(got.SameBytes(want)) << rows << " x " << dim;
    }
  }
}

struct CombineShape {
  int rows, topk, dim, padding;
};

// A weight in three is 0, and its row NaN; row 0 has no expert at all.
struct CombineInput {
  TestMatrix experts;
  TestMatrix shared;
  std::vector<float> weights;

  explicit CombineInput(const CombineShape& s)
      : experts(TestMatrix::Random(s.rows * s.topk, s.dim, 1, kBf16, s.padding)),
        shared(TestMatrix::Random(s.rows, s.dim, 2, kBf16, s.padding)),
        weights(RandomFloats(size_t(s.rows) * s.topk, 3)) {
    for (size_t i = 0; i < weights.size(); ++i) {
      if (i % 3 != 0 && i >= size_t(s.topk)) continue;
      weights[i] = i % 2 == 0 ? 0.0f : -0.0f;
      for (int c = 0; c < s.dim; ++c) experts.Set(int(i), c, NAN);
    }
  }
};

TEST_F(RowOpsParity, CombineFollowsTheCpuAndSkipsRowsOfWeightZero) {
  for (const CombineShape& s :
       {CombineShape{5, 8, 7168, 0}, CombineShape{1, 8, 7168, 0}, CombineShape{17, 4, 256, 8},
        CombineShape{9, 3, 264, 4}, CombineShape{3, 9, 1032, 0}, CombineShape{2, 20, 128, 0},
        CombineShape{4, 1, 2048, 0}}) {
    const CombineInput in(s);
    TestMatrix want(s.rows, s.dim, kBf16, s.padding);
    cpu_->Combine({in.experts.view(), in.weights.data(), s.topk, in.shared.view(), want.view()});
    const Matrix experts = Upload(in.experts);
    const float* weights = Upload(in.weights);
    const TestMatrix got = Output(s.rows, s.dim, kBf16, s.padding, [&](const Matrix& y) {
      gpu_->Combine({experts, weights, s.topk, Upload(in.shared), y});
    });
    ExpectSameButForRounding(got, want, /*absolute=*/1e-6);
    for (int c = 0; c < s.dim; ++c) ASSERT_EQ(got.At(0, c), in.shared.At(0, c));

    TestMatrix in_place = in.shared;
    const Matrix y = Upload(in.shared);
    gpu_->Combine({experts, weights, s.topk, y, y});
    Download(y, in_place);
    EXPECT_TRUE(in_place.SameBytes(got)) << "y may be shared";
  }
}

TEST_F(RowOpsParity, CombineOfARowDependsOnItAlone) {
  const CombineShape s = {130, 8, 1024, 0};
  const CombineInput in(s);
  const auto run = [&](const TestMatrix& experts, const std::vector<float>& weights,
                       const TestMatrix& shared) {
    return Output(shared.rows(), s.dim, kBf16, 0, [&](const Matrix& y) {
      gpu_->Combine({Upload(experts), Upload(weights), s.topk, Upload(shared), y});
    });
  };
  const TestMatrix batch = run(in.experts, in.weights, in.shared);
  for (int r : {0, 1, 64, 129}) {
    TestMatrix experts(s.topk, s.dim, kBf16);
    for (int j = 0; j < s.topk; ++j) {
      std::memcpy(experts.view().row<uint16_t>(j), in.experts.view().row<uint16_t>(r * s.topk + j),
                  s.dim * sizeof(uint16_t));
    }
    const auto first = in.weights.begin() + r * s.topk;
    const TestMatrix alone = run(experts, {first, first + s.topk}, RowOf(in.shared, r));
    EXPECT_TRUE(alone.SameBytes(RowOf(batch, r))) << "row " << r;
  }
}

TEST_F(RowOpsParity, GatherRowsCopiesBits) {
  for (const DType dtype : {kBf16, kF32}) {
    for (const auto& [rows, dim, padding] : {std::tuple{1, 7168, 0},
                                             {5, 7168, 8},
                                             {64, 256, 4},
                                             {3, 4, 0},
                                             {200, 132, 0},
                                             {9, 2, 0}}) {
      const TestMatrix x = TestMatrix::Random(31, dim, 4, dtype, padding);
      const std::vector<int32_t> index = RandomIndices(rows, 31, dim);
      TestMatrix want(rows, dim, dtype, padding);
      cpu_->GatherRows({x.view(), index.data(), want.view()});
      const TestMatrix got = Output(rows, dim, dtype, padding, [&](const Matrix& out) {
        gpu_->GatherRows({Upload(x), Upload(index), out});
      });
      EXPECT_TRUE(got.SameBytes(want)) << rows << " x " << dim;
    }
  }
}

TEST_F(RowOpsParity, ConcatCopiesBits) {
  for (const auto& [rows, a_dim, b_dim, padding] :
       {std::tuple{1, 7168, 7168, 0}, {5, 512, 64, 8}, {33, 128, 4, 4}, {2, 8, 256, 0}}) {
    const TestMatrix a = TestMatrix::Random(rows, a_dim, 5, kBf16, padding);
    const TestMatrix b = TestMatrix::Random(rows, b_dim, 6, kBf16);
    TestMatrix want(rows, a_dim + b_dim, kBf16, padding);
    cpu_->Concat({a.view(), b.view(), want.view()});
    const TestMatrix got = Output(rows, a_dim + b_dim, kBf16, padding, [&](const Matrix& out) {
      gpu_->Concat({Upload(a), Upload(b), out});
    });
    EXPECT_TRUE(got.SameBytes(want)) << rows << " x " << a_dim << " + " << b_dim;
  }
}

TEST_F(RowOpsParity, NoRowsLaunchNothing) {
  const TestMatrix none(0, 64, kBf16);
  const TestMatrix table = TestMatrix::Random(3, 64, 1);
  gpu_->Embed({table.view(), nullptr, none.view()});
  gpu_->Combine({none.view(), nullptr, 2, none.view(), none.view()});
  gpu_->GatherRows({none.view(), nullptr, none.view()});
  gpu_->Concat({none.view(), none.view(), TestMatrix(0, 128, kBf16).view()});
  gpu_->Synchronize();
}

using RowOpsParityDeath = RowOpsParity;

TEST_F(RowOpsParityDeath, RefusesWhatItCannotServe) {
  const TestMatrix table(3, 64, kBf16);
  const TestMatrix f32(2, 64), bf16(2, 64, kBf16), narrow(2, 5, kBf16);
  const int32_t ids[] = {0, 1};
  EXPECT_DEATH(gpu_->Embed({table.view(), ids, f32.view()}), "bf16 activations");
  EXPECT_DEATH(gpu_->GatherRows({f32.view(), ids, bf16.view()}), "dtype");
  EXPECT_DEATH(gpu_->GatherRows({narrow.view(), ids, narrow.view()}), "aligned to 8 bytes");
}

}  // namespace
}  // namespace baleen::kernels
