#include "decode_worker/host_staged_exchange.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "model/memory_backend.h"
#include "testing/status_matchers.h"

namespace baleen::decode_worker {
namespace {

using kernels::Matrix;
using kernels::Quantized;

constexpr int kDim = 128;
constexpr int kTopk = 2;
constexpr int kRanks = 2;

// Every row arrives twice, as if a second rank had sent the same; results are those of the first.
class TwiceExchange final : public model::ExpertExchange {
 public:
  Received Dispatch(const Matrix& x, const Quantized& xq, const int32_t* ids, int topk) override {
    x_seen = x.data;
    const size_t rows = size_t(x.rows);
    data_.assign(2 * rows * kDim * 2, std::byte{});
    scales_.assign(2 * rows, 0);
    ids_.assign(2 * rows * topk, 0);
    const size_t row_bytes = xq.data != nullptr ? kDim : kDim * 2;
    const void* from = xq.data != nullptr ? static_cast<const void*>(xq.data) : x.data;
    for (size_t copy = 0; copy < 2; ++copy) {
      if (rows == 0) continue;
      std::memcpy(data_.data() + copy * rows * row_bytes, from, rows * row_bytes);
      if (xq.data != nullptr) std::memcpy(scales_.data() + copy * rows, xq.scales, rows * 4);
      std::memcpy(ids_.data() + copy * rows * topk, ids, rows * topk * 4);
    }
    Received in = {.x = x, .xq = xq, .ids = ids_.data(), .rows = 2 * x.rows};
    in.x.rows = in.xq.rows = in.rows;
    (xq.data != nullptr ? reinterpret_cast<void*&>(in.xq.data) : in.x.data) = data_.data();
    if (xq.data != nullptr) in.xq.scales = scales_.data();
    return in;
  }
  Matrix Collect(const Matrix& expert_out) override {
    out_seen = expert_out.data;
    Matrix first = expert_out;
    first.rows = expert_out.rows / 2;
    return first;
  }

  const void* x_seen = nullptr;
  const void* out_seen = nullptr;

 private:
  std::vector<std::byte> data_;
  std::vector<float> scales_;
  std::vector<int32_t> ids_;
};

class Staged : public ::testing::TestWithParam<bool> {
 protected:
  HostStagedExchange::Options Options() const {
    return {.max_rows = 4, .ranks = kRanks, .topk = kTopk, .dim = kDim, .fp8 = GetParam()};
  }
  baleen::testing::MemoryBackend device_{kernels::WeightStorage::kNative, size_t{1} << 40,
                                         /*host_memory=*/false};
  TwiceExchange inner_;
};
INSTANTIATE_TEST_SUITE_P(Rows, Staged, ::testing::Bool());

TEST_P(Staged, RowsGoOutAndComeBackByTheHost) {
  const auto exchange = HostStagedExchange::Create(device_, inner_, Options());
  BALEEN_ASSERT_OK(exchange);
  for (const int rows : {3, 0, 4}) {
    std::vector<uint16_t> x(size_t(rows + 1) * kDim);
    std::iota(x.begin(), x.end(), uint16_t(7 * rows));
    std::vector<float> scales(rows + 1);
    std::iota(scales.begin(), scales.end(), 0.5f);
    std::vector<int32_t> ids(size_t(rows + 1) * kTopk);
    std::iota(ids.begin(), ids.end(), rows);
    const Matrix xm = {x.data(), DType::kBf16, rows, kDim, kDim};
    const Quantized xq =
        GetParam() ? Quantized{reinterpret_cast<uint8_t*>(x.data()), scales.data(), rows, kDim}
                   : Quantized{};
    const auto in = (*exchange)->Dispatch(xm, xq, ids.data(), kTopk);
    EXPECT_NE(inner_.x_seen, x.data());
    ASSERT_EQ(in.rows, 2 * rows);
    const size_t row_bytes = GetParam() ? kDim : kDim * 2;
    const auto* got = static_cast<const std::byte*>(GetParam() ? in.xq.data : in.x.data);
    const auto* want = reinterpret_cast<const std::byte*>(x.data());
    for (int r = 0; r < 2 * rows; ++r) {
      EXPECT_EQ(std::memcmp(got + r * row_bytes, want + r % rows * row_bytes, row_bytes), 0);
      if (GetParam()) {
        EXPECT_EQ(in.xq.scales[r], scales[r % rows]);
      }
      for (int j = 0; j < kTopk; ++j) EXPECT_EQ(in.ids[r * kTopk + j], ids[r % rows * kTopk + j]);
    }

    std::vector<uint16_t> out(size_t(2 * rows + 1) * kTopk * kDim);
    std::iota(out.begin(), out.end(), uint16_t(1));
    const Matrix om = {out.data(), DType::kBf16, 2 * rows * kTopk, kDim, kDim};
    const Matrix result = (*exchange)->Collect(om);
    EXPECT_NE(inner_.out_seen, out.data());
    EXPECT_NE(result.data, inner_.out_seen);
    ASSERT_EQ(result.rows, rows * kTopk);
    EXPECT_EQ(std::memcmp(result.data, out.data(), size_t(rows) * kTopk * kDim * 2), 0);
  }
}

TEST_P(Staged, NamesTheDeviceMemoryItLacks) {
  baleen::testing::MemoryBackend small(kernels::WeightStorage::kNative, /*limit=*/100,
                                       /*host_memory=*/false);
  const auto refused = HostStagedExchange::Create(small, inner_, Options());
  EXPECT_THAT(refused, baleen::testing::StatusIs(absl::StatusCode::kResourceExhausted,
                                                 ::testing::HasSubstr("expert exchange wants")));
}

}  // namespace
}  // namespace baleen::decode_worker
