#include <cmath>
#include <cstring>

#include "kernels/test_cache.h"

namespace baleen::kernels {
namespace {

using testing::RandomFloats;
using testing::TestCache;
using testing::TestMatrix;
using testing::TestQuantized;

constexpr int kHeads = 8;
constexpr int kDim = 128;

class Indexer : public ::testing::TestWithParam<Numerics> {
 protected:
  bool fp8() const { return GetParam() == Numerics::kFp8; }

  // Logits of the cache's rows; the queries are rows [first, ...) of one long random matrix.
  std::vector<float> Run(Backend& backend, const TestCache& cache, int first, int64_t stride) {
    const int rows = cache.rows().rows;
    const TestMatrix all = TestMatrix::Random(400, kHeads * kDim, 9, ActivationDType(GetParam()));
    Matrix part = all.view();
    part.data = part.row<std::byte>(0) +
                size_t(first) * part.cols * DTypeBytes(ActivationDType(GetParam()));
    part.rows = rows;
    q8_ = std::make_unique<TestQuantized>(rows, kHeads * kDim);
    weights_ = RandomFloats(400 * kHeads, 10);
    weights_.erase(weights_.begin(), weights_.begin() + first * kHeads);
    if (fp8()) {
      backend.Quantize({part, q8_->view()});
      backend.ScaleIndexWeights({weights_.data(), rows, kHeads, q8_->view().scales, 0.01f});
    } else {
      backend.ScaleIndexWeights({weights_.data(), rows, kHeads, nullptr, 0.01f});
    }
    q_ = std::make_unique<TestMatrix>(rows, kHeads * kDim, part.dtype);
    std::memcpy(q_->view().data, part.data,
                size_t(rows) * part.cols * DTypeBytes(ActivationDType(GetParam())));
    std::vector<float> logits(size_t(rows) * stride, NAN);
    backend.IndexerLogits({.q = fp8() ? Matrix{} : q_->view(),
                           .q8 = fp8() ? q8_->view() : Quantized{},
                           .weights = weights_.data(),
                           .heads = kHeads,
                           .cache = cache.cache(),
                           .rows = cache.rows(),
                           .logits = logits.data(),
                           .logits_stride = stride});
    return logits;
  }

  double Want(const TestCache& cache, int r, int s) const {
    double sum = 0;
    for (int h = 0; h < kHeads; ++h) {
      double dot = 0;
      for (int d = 0; d < kDim; ++d) {
        const int c = h * kDim + d;
        // The query's scale is in the weight.
        const double q = fp8() ? q8_->At(r, c) / q8_->Scale(r, c) : q_->At(r, c);
        dot += q * cache.Key(cache.rows().sequences[r], s, d);
      }
      sum += weights_[r * kHeads + h] * std::max(dot, 0.0);
    }
    return sum;
  }

  std::unique_ptr<Backend> backend_ = MakeCpuBackend(2);
  std::unique_ptr<TestMatrix> q_;
  std::unique_ptr<TestQuantized> q8_;
  std::vector<float> weights_;
};
INSTANTIATE_TEST_SUITE_P(Both, Indexer, ::testing::Values(Numerics::kExact, Numerics::kFp8));

TEST_P(Indexer, EqualsTheFormulaAndWritesOnlyVisibleColumns) {
  TestCache cache(GetParam(), {300, 65, 1});
  cache.Fill(*backend_, 0, 300, 1);
  cache.Fill(*backend_, 1, 65, 4);
  cache.Fill(*backend_, 2, 1, 7);
  std::vector<std::pair<int, int>> rows;
  for (int p = 280; p < 300; ++p) rows.emplace_back(0, p);
  rows.insert(rows.end(), {{1, 63}, {1, 64}, {2, 0}, {0, 63}, {0, 64}, {0, 0}});
  cache.SetRows(rows);
  const int stride = 310;
  const std::vector<float> logits = Run(*backend_, cache, 0, stride);
  for (int r = 0; r < int(rows.size()); ++r) {
    for (int s = 0; s < stride; ++s) {
      const float got = logits[size_t(r) * stride + s];
      if (s > rows[r].second) {
        ASSERT_TRUE(std::isnan(got)) << "row " << r << " column " << s;
      } else {
        const double want = Want(cache, r, s);
        ASSERT_NEAR(got, want, 2e-5 * (1 + std::fabs(want))) << "row " << r << " column " << s;
      }
    }
  }
}

TEST_P(Indexer, ARowDoesNotDependOnItsBatchOrOnThreads) {
  TestCache cache(GetParam(), {400});
  cache.Fill(*backend_, 0, 400, 1);
  cache.SetRows(0, 0, 400);
  const std::vector<float> all = Run(*backend_, cache, 0, 400);
  for (int threads : {1, 3}) {
    const std::unique_ptr<Backend> backend = MakeCpuBackend(threads);
    for (const auto& [begin, end] : {std::pair{399, 400}, {100, 103}, {57, 140}}) {
      cache.SetRows(0, begin, end);
      const std::vector<float> some = Run(*backend, cache, begin, 400);
      for (int p = begin; p < end; ++p) {
        ASSERT_EQ(std::memcmp(&some[size_t(p - begin) * 400], &all[size_t(p) * 400], (p + 1) * 4),
                  0)
            << p;
      }
    }
  }
}

TEST_P(Indexer, NoRowsIsLegal) {
  TestCache cache(GetParam(), {10});
  cache.SetRows(std::vector<std::pair<int, int>>{});
  EXPECT_TRUE(Run(*backend_, cache, 0, 10).empty());
}

}  // namespace
}  // namespace baleen::kernels
