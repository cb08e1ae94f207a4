#include <cmath>

#include "kernels/testing.h"

namespace baleen::kernels {
namespace {

using testing::TestMatrix;
using testing::Tolerance;

class RowOps : public ::testing::TestWithParam<DType> {
 protected:
  std::unique_ptr<Backend> backend_ = MakeCpuBackend(2);
};
INSTANTIATE_TEST_SUITE_P(Both, RowOps, ::testing::Values(DType::kF32, DType::kBf16));

TEST_P(RowOps, EmbedCopiesRowsIntoTheActivationsDtype) {
  for (DType table_dtype : {DType::kF32, DType::kBf16}) {
    const TestMatrix table = TestMatrix::Random(10, 65, 1, table_dtype);
    const std::vector<int32_t> ids = {9, 0, 4, 9};
    TestMatrix out(4, 65, GetParam(), 2);
    backend_->Embed({table.view(), ids.data(), out.view()});
    for (int r = 0; r < 4; ++r) {
      for (int c = 0; c < 65; ++c) {
        const float v = float(table.At(ids[r], c));
        ASSERT_EQ(out.At(r, c), GetParam() == DType::kF32 ? v : RoundToBf16(v));
      }
    }
  }
}

TEST(RowOpsDeath, EmbedRefusesAnIdOutsideTheTable) {
  const TestMatrix table = TestMatrix::Random(10, 8, 1);
  const std::vector<int32_t> ids = {10};
  TestMatrix out(1, 8);
  EXPECT_DEATH(MakeCpuBackend(1)->Embed({table.view(), ids.data(), out.view()}), "table.rows");
}

TEST_P(RowOps, CombineWeighsExpertsAndAddsTheSharedOne) {
  const int rows = 7, topk = 3, dim = 130;
  const TestMatrix experts = TestMatrix::Random(rows * topk, dim, 1, GetParam());
  TestMatrix shared = TestMatrix::Random(rows, dim, 2, GetParam());
  std::vector<float> weights = testing::RandomFloats(rows * topk, 3);
  TestMatrix y(rows, dim, GetParam());
  backend_->Combine({experts.view(), weights.data(), topk, shared.view(), y.view()});
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < dim; ++c) {
      double want = shared.At(r, c);
      for (int j = 0; j < topk; ++j) want += weights[r * topk + j] * experts.At(r * topk + j, c);
      ASSERT_NEAR(y.At(r, c), want, Tolerance(GetParam(), want));
    }
  }
  backend_->Combine({experts.view(), weights.data(), topk, shared.view(), shared.view()});
  EXPECT_TRUE(shared.SameBytes(y)) << "y may be shared";
}

TEST_P(RowOps, CombineIgnoresUnwrittenRowsOfWeightZero) {
  const TestMatrix experts(2, 64, GetParam());  // NaN
  const TestMatrix shared = TestMatrix::Random(1, 64, 2, GetParam());
  const std::vector<float> weights = {0, 0};
  TestMatrix y(1, 64, GetParam());
  backend_->Combine({experts.view(), weights.data(), 2, shared.view(), y.view()});
  for (int c = 0; c < 64; ++c) EXPECT_EQ(y.At(0, c), shared.At(0, c));
}

TEST_P(RowOps, GatherRowsAndConcat) {
  const TestMatrix a = TestMatrix::Random(6, 50, 1, GetParam(), 3);
  const TestMatrix b = TestMatrix::Random(3, 20, 2, GetParam());
  const std::vector<int32_t> index = {5, 5, 0};
  TestMatrix gathered(3, 50, GetParam()), both(3, 70, GetParam());
  backend_->GatherRows({a.view(), index.data(), gathered.view()});
  backend_->Concat({gathered.view(), b.view(), both.view()});
  for (int r = 0; r < 3; ++r) {
    for (int c = 0; c < 70; ++c) {
      EXPECT_EQ(both.At(r, c), c < 50 ? a.At(index[r], c) : b.At(r, c - 50));
    }
  }
}

TEST_P(RowOps, NoRowsIsLegal) {
  const TestMatrix none(0, 64, GetParam());
  const TestMatrix table = TestMatrix::Random(3, 64, 1);
  backend_->Embed({table.view(), nullptr, none.view()});
  backend_->Combine({none.view(), nullptr, 2, none.view(), none.view()});
  backend_->GatherRows({none.view(), nullptr, none.view()});
  backend_->Concat({none.view(), none.view(), TestMatrix(0, 128, GetParam()).view()});
}

}  // namespace
}  // namespace baleen::kernels
