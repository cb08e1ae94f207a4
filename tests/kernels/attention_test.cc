#include <cmath>
#include <cstring>

#include "kernels/test_cache.h"

namespace baleen::kernels {
namespace {

using testing::RandomFloats;
using testing::TestCache;
using testing::TestMatrix;
using testing::Tolerance;

constexpr int kHeads = 3;
constexpr int kLora = 512;
constexpr int kRope = 64;
constexpr int kRopeStride = 192;
constexpr float kScale = 0.0625f;

class Attention : public ::testing::TestWithParam<Numerics> {
 protected:
  DType dtype() const { return ActivationDType(GetParam()); }

  TestMatrix Run(Backend& backend, const TestCache& cache, const TestMatrix& q,
                 const TestMatrix& q_rope, const std::vector<int32_t>& indices = {}, int topk = 0) {
    TestMatrix out(cache.rows().rows, kHeads * kLora, dtype());
    backend.SparseAttention({.q = q.view(),
                             .q_rope = q_rope.view(),
                             .rope_head_stride = kRopeStride,
                             .heads = kHeads,
                             .scale = kScale,
                             .indices = indices.empty() ? nullptr : indices.data(),
                             .topk = topk,
                             .cache = cache.cache(),
                             .rows = cache.rows(),
                             .out = out.view()});
    return out;
  }

  // out[0, kLora) of row r and head h over the named keys, in f64.
  std::vector<double> Want(const TestCache& cache, const TestMatrix& q, const TestMatrix& q_rope,
                           int r, int h, const std::vector<int>& keys) const {
    const int sequence = cache.rows().sequences[r];
    std::vector<double> scores;
    double largest = -INFINITY;
    for (int s : keys) {
      double dot = 0;
      for (int d = 0; d < kLora; ++d) dot += q.At(r, h * kLora + d) * cache.Latent(sequence, s, d);
      for (int d = 0; d < kRope; ++d) {
        dot += q_rope.At(r, h * kRopeStride + d) * cache.Latent(sequence, s, kLora + d);
      }
      scores.push_back(kScale * dot);
      largest = std::max(largest, scores.back());
    }
    double sum = 0;
    for (double& s : scores) sum += s = std::exp(s - largest);
    std::vector<double> out(kLora, 0.0);
    for (size_t i = 0; i < keys.size(); ++i) {
      for (int d = 0; d < kLora; ++d) {
        out[d] += scores[i] / sum * cache.Latent(sequence, keys[i], d);
      }
    }
    return out;
  }

  void ExpectRow(const TestCache& cache, const TestMatrix& q, const TestMatrix& q_rope,
                 const TestMatrix& out, int r, const std::vector<int>& keys) {
    for (int h = 0; h < kHeads; ++h) {
      const std::vector<double> want = Want(cache, q, q_rope, r, h, keys);
      for (int d = 0; d < kLora; ++d) {
        ASSERT_NEAR(out.At(r, h * kLora + d), want[d], Tolerance(dtype(), want[d], 5e-5))
            << "row " << r << " head " << h << " element " << d;
      }
    }
  }

  static std::vector<int> UpTo(int position) {
    std::vector<int> keys(position + 1);
    for (int i = 0; i <= position; ++i) keys[i] = i;
    return keys;
  }

  TestMatrix Query(int rows) { return TestMatrix::Random(rows, kHeads * kLora, 31, dtype()); }
  TestMatrix RopeQuery(int rows) {
    return TestMatrix::Random(rows, kHeads * kRopeStride, 32, dtype());
  }

  std::unique_ptr<Backend> backend_ = MakeCpuBackend(2);
};
INSTANTIATE_TEST_SUITE_P(Both, Attention, ::testing::Values(Numerics::kExact, Numerics::kFp8));

TEST_P(Attention, DenseEqualsF64OverAllEarlierKeys) {
  TestCache cache(GetParam(), {150, 3});
  cache.Fill(*backend_, 0, 150, 1);
  cache.Fill(*backend_, 1, 3, 5);
  const std::vector<std::pair<int, int>> rows = {{0, 0},  {0, 62}, {0, 63},  {0, 64},
                                                 {0, 65}, {1, 2},  {0, 149}, {1, 0}};
  cache.SetRows(rows);
  const TestMatrix q = Query(8), q_rope = RopeQuery(8);
  const TestMatrix out = Run(*backend_, cache, q, q_rope);
  for (int r = 0; r < 8; ++r) ExpectRow(cache, q, q_rope, out, r, UpTo(rows[r].second));
}

TEST_P(Attention, SparseReadsOnlyTheNamedKeys) {
  TestCache cache(GetParam(), {200});
  cache.Fill(*backend_, 0, 200, 1);
  cache.SetRows({{0, 199}, {0, 150}, {0, 2}});
  const int topk = 80;
  std::vector<std::vector<int>> keys(3);
  for (int i = 0; i < 80; ++i) keys[0].push_back(2 * i + 1);
  for (int i = 0; i < 65; ++i) keys[1].push_back(i);
  keys[2] = {1};
  std::vector<int32_t> indices(3 * topk, -1);
  for (int r = 0; r < 3; ++r) std::copy(keys[r].begin(), keys[r].end(), &indices[r * topk]);
  const TestMatrix q = Query(3), q_rope = RopeQuery(3);
  const TestMatrix out = Run(*backend_, cache, q, q_rope, indices, topk);
  for (int r = 0; r < 3; ++r) ExpectRow(cache, q, q_rope, out, r, keys[r]);
}

TEST_P(Attention, SparseEqualsDenseBitForBitWhenEveryKeyIsNamed) {
  TestCache cache(GetParam(), {130});
  cache.Fill(*backend_, 0, 130, 1);
  cache.SetRows(0, 100, 130);
  const int topk = 256;
  std::vector<int32_t> indices(30 * topk, -1);
  for (int r = 0; r < 30; ++r) {
    for (int i = 0; i <= 100 + r; ++i) indices[r * topk + i] = i;
  }
  const TestMatrix q = Query(30), q_rope = RopeQuery(30);
  EXPECT_TRUE(
      Run(*backend_, cache, q, q_rope, indices, topk).SameBytes(Run(*backend_, cache, q, q_rope)));
}

TEST_P(Attention, ARowDoesNotDependOnItsBatchOrOnThreads) {
  TestCache cache(GetParam(), {300});
  cache.Fill(*backend_, 0, 300, 1);
  cache.SetRows(0, 0, 300);
  const TestMatrix q = Query(300), q_rope = RopeQuery(300);
  const TestMatrix all = Run(*backend_, cache, q, q_rope);
  const size_t row_bytes = size_t(kHeads) * kLora * DTypeBytes(dtype());
  for (int threads : {1, 4}) {
    const std::unique_ptr<Backend> backend = MakeCpuBackend(threads);
    for (const auto& [begin, end] : {std::pair{299, 300}, {60, 68}, {1, 100}}) {
      cache.SetRows(0, begin, end);
      TestMatrix some_q(end - begin, q.cols(), dtype());
      TestMatrix some_rope(end - begin, q_rope.cols(), dtype());
      const size_t width = DTypeBytes(dtype());
      std::memcpy(some_q.view().data, q.view().row<std::byte>(0) + begin * q.cols() * width,
                  size_t(end - begin) * q.cols() * width);
      std::memcpy(some_rope.view().data,
                  q_rope.view().row<std::byte>(0) + begin * q_rope.cols() * width,
                  size_t(end - begin) * q_rope.cols() * width);
      const TestMatrix some = Run(*backend, cache, some_q, some_rope);
      ASSERT_EQ(std::memcmp(some.view().data, all.view().row<std::byte>(0) + begin * row_bytes,
                            (end - begin) * row_bytes),
                0)
          << begin << " " << threads;
    }
  }
}

// Large scores: the running softmax has to shrink what it has summed.
TEST_P(Attention, SurvivesLargeScores) {
  TestCache cache(GetParam(), {140});
  cache.Fill(*backend_, 0, 140, 1);
  cache.SetRows({{0, 139}});
  TestMatrix q = Query(1), q_rope = RopeQuery(1);
  for (int c = 0; c < q.cols(); ++c) q.Set(0, c, float(q.At(0, c)) * 30);
  const TestMatrix out = Run(*backend_, cache, q, q_rope);
  for (int h = 0; h < kHeads; ++h) {
    const std::vector<double> want = Want(cache, q, q_rope, 0, h, UpTo(139));
    for (int d = 0; d < kLora; ++d) {
      ASSERT_NEAR(out.At(0, h * kLora + d), want[d], Tolerance(dtype(), want[d], 1e-3));
    }
  }
}

// The absorbed form over the cache equals attention over decompressed keys and values (3.5).
TEST(AbsorbedAttention, EqualsTheNaiveForm) {
  const std::unique_ptr<Backend> backend = MakeCpuBackend(1);
  const int nope = 128, v_dim = 128, keys = 40;
  TestCache cache(Numerics::kExact, {keys});
  cache.Fill(*backend, 0, keys, 1);
  cache.SetRows({{0, keys - 1}});
  const TestMatrix q = TestMatrix::Random(1, kHeads * kRopeStride, 3);  // [nope | rope] a head
  std::vector<float> w_uk = RandomFloats(size_t(kHeads) * nope * kLora, 4);
  std::vector<float> w_uv = RandomFloats(size_t(kHeads) * v_dim * kLora, 5);
  for (float& w : w_uk) w *= 0.05f;
  // HeadLinear multiplies by [out, in]: absorbing needs W_UK of a head as [kv_lora, nope].
  std::vector<float> w_absorb(w_uk.size());
  for (int h = 0; h < kHeads; ++h) {
    for (int i = 0; i < nope; ++i) {
      for (int d = 0; d < kLora; ++d) {
        w_absorb[(size_t(h) * kLora + d) * nope + i] = w_uk[(size_t(h) * nope + i) * kLora + d];
      }
    }
  }
  TestMatrix absorbed(1, kHeads * kLora), latent(1, kHeads * kLora), out(1, kHeads * v_dim);
  Matrix q_rope = q.view();
  q_rope.data = q_rope.row<float>(0) + nope;
  backend->HeadLinear(
      {q.view(), kHeads, kRopeStride, w_absorb.data(), DType::kF32, kLora, nope, absorbed.view()});
  backend->SparseAttention({.q = absorbed.view(),
                            .q_rope = q_rope,
                            .rope_head_stride = kRopeStride,
                            .heads = kHeads,
                            .scale = kScale,
                            .cache = cache.cache(),
                            .rows = cache.rows(),
                            .out = latent.view()});
  backend->HeadLinear(
      {latent.view(), kHeads, kLora, w_uv.data(), DType::kF32, v_dim, kLora, out.view()});
  for (int h = 0; h < kHeads; ++h) {
    std::vector<double> scores(keys);
    std::vector<double> values(size_t(keys) * v_dim, 0.0);
    double largest = -INFINITY, sum = 0;
    for (int s = 0; s < keys; ++s) {
      double dot = 0;
      for (int i = 0; i < nope; ++i) {
        double k = 0;
        for (int d = 0; d < kLora; ++d) {
          k += double{w_uk[(size_t(h) * nope + i) * kLora + d]} * cache.Latent(0, s, d);
        }
        dot += q.At(0, h * kRopeStride + i) * k;
      }
      for (int d = 0; d < kRope; ++d) {
        dot += q.At(0, h * kRopeStride + nope + d) * cache.Latent(0, s, kLora + d);
      }
      for (int o = 0; o < v_dim; ++o) {
        for (int d = 0; d < kLora; ++d) {
          values[size_t(s) * v_dim + o] +=
              double{w_uv[(size_t(h) * v_dim + o) * kLora + d]} * cache.Latent(0, s, d);
        }
      }
      scores[s] = kScale * dot;
      largest = std::max(largest, scores[s]);
    }
    for (double& s : scores) sum += s = std::exp(s - largest);
    for (int o = 0; o < v_dim; ++o) {
      double want = 0;
      for (int s = 0; s < keys; ++s) want += scores[s] / sum * values[size_t(s) * v_dim + o];
      ASSERT_NEAR(out.At(0, h * v_dim + o), want, 2e-3 + 1e-4 * std::fabs(want));
    }
  }
}

}  // namespace
}  // namespace baleen::kernels
