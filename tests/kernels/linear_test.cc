#include <cmath>
#include <cstring>

#include "kernels/testing.h"

namespace baleen::kernels {
namespace {

using testing::RandomFloats;
using testing::TestMatrix;
using testing::TestQuantized;
using testing::Tolerance;

Weight F32Weight(const std::vector<float>& w, int out, int in, bool fp8_input = false) {
  return {w.data(), DType::kF32, nullptr, out, in, fp8_input};
}

class LinearOp : public ::testing::TestWithParam<DType> {
 protected:
  std::unique_ptr<Backend> backend_ = MakeCpuBackend(3);
};
INSTANTIATE_TEST_SUITE_P(Both, LinearOp, ::testing::Values(DType::kF32, DType::kBf16));

TEST_P(LinearOp, EqualsAnF64Product) {
  for (int rows : {0, 1, 2, 97, 200}) {
    for (const auto& [out, in] : {std::pair{576, 256}, {33, 130}, {1, 7}, {300, 64}}) {
      const TestMatrix x = TestMatrix::Random(rows, in, rows + in, GetParam(), 2);
      const std::vector<float> w = RandomFloats(size_t(out) * in, out);
      TestMatrix y(rows, out, GetParam(), 1), y_f32(rows, out);
      backend_->Linear({x.view(), {}, F32Weight(w, out, in), y.view()});
      backend_->Linear({x.view(), {}, F32Weight(w, out, in), y_f32.view()});
      for (int r = 0; r < rows; ++r) {
        for (int o = 0; o < out; ++o) {
          double want = 0;
          for (int i = 0; i < in; ++i) want += x.At(r, i) * w[size_t(o) * in + i];
          ASSERT_NEAR(y_f32.At(r, o), want, 2e-4) << rows << " " << out << "x" << in;
          ASSERT_EQ(y.At(r, o), GetParam() == DType::kF32 ? y_f32.At(r, o)
                                                          : RoundToBf16(float(y_f32.At(r, o))));
        }
      }
    }
  }
}

TEST_P(LinearOp, ARowDoesNotDependOnItsBatchOrOnThreads) {
  const int in = 256, out = 200;
  const TestMatrix x = TestMatrix::Random(512, in, 1, GetParam());
  const std::vector<float> w = RandomFloats(size_t(out) * in, 2);
  TestMatrix all(512, out);
  backend_->Linear({x.view(), {}, F32Weight(w, out, in), all.view()});
  for (int threads : {1, 2, 4}) {
    const std::unique_ptr<Backend> backend = MakeCpuBackend(threads);
    for (int rows : {1, 2, 3, 7, 64, 95, 300}) {
      Matrix part = x.view();
      part.data = part.row<std::byte>(0) + size_t(7) * in * DTypeBytes(GetParam());
      part.rows = rows;
      TestMatrix y(rows, out);
      backend->Linear({part, {}, F32Weight(w, out, in), y.view()});
      for (int r = 0; r < rows; ++r) {
        ASSERT_EQ(std::memcmp(y.view().row<float>(r), all.view().row<float>(r + 7), out * 4), 0)
            << rows << " rows, " << threads << " threads";
      }
    }
  }
}

TEST_P(LinearOp, MultipliesQuantizedRowsOnlyForFp8Weights) {
  const int in = 256, out = 40, rows = 5;
  const TestMatrix x = TestMatrix::Random(rows, in, 1, GetParam());
  const std::vector<float> w = RandomFloats(size_t(out) * in, 2);
  TestQuantized xq(rows, in);
  backend_->Quantize({x.view(), xq.view()});
  TestMatrix y8(rows, out), y(rows, out), plain(rows, out);
  backend_->Linear({x.view(), xq.view(), F32Weight(w, out, in, true), y8.view()});
  backend_->Linear({x.view(), xq.view(), F32Weight(w, out, in, false), y.view()});
  backend_->Linear({x.view(), {}, F32Weight(w, out, in, true), plain.view()});
  EXPECT_TRUE(y.SameBytes(plain));
  for (int r = 0; r < rows; ++r) {
    for (int o = 0; o < out; ++o) {
      double want = 0;
      for (int i = 0; i < in; ++i) want += double{xq.At(r, i)} * w[size_t(o) * in + i];
      ASSERT_NEAR(y8.At(r, o), want, 1e-4);
    }
  }
  EXPECT_FALSE(y8.SameBytes(y));
}

TEST_P(LinearOp, HeadLinearReadsTheFirstElementsOfEachHead) {
  const int heads = 3, in = 128, stride = 192, out = 70;
  for (int rows : {0, 1, 100}) {
    const TestMatrix x = TestMatrix::Random(rows, heads * stride, 3, GetParam());
    const std::vector<float> w = RandomFloats(size_t(heads) * out * in, 4);
    TestMatrix y(rows, heads * out, GetParam());
    backend_->HeadLinear({x.view(), heads, stride, w.data(), DType::kF32, out, in, y.view()});
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < heads * out; ++c) {
        double want = 0;
        for (int i = 0; i < in; ++i) want += x.At(r, c / out * stride + i) * w[size_t(c) * in + i];
        ASSERT_NEAR(y.At(r, c), want, Tolerance(GetParam(), want, 1e-4));
      }
    }
  }
}

}  // namespace
}  // namespace baleen::kernels
