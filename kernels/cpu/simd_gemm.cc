#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/simd_gemm.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h:
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace baleen::kernels::simd::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using Vec = hn::Vec<F32>;

// Rows of a tile: as many accumulators as the registers hold (32 with AVX-512, 16 without).
#if HWY_TARGET <= HWY_AVX3
constexpr int kTileRows = 6;
#else
constexpr int kTileRows = 3;
#endif
constexpr int kTileColumns = 4;
// Columns of b that are walked before the next rows of a: they stay in the second-level cache.
constexpr int64_t kBlockFloats = 64 * 1024;

struct StridedRows {
  const float* base;
  int64_t stride;
  const float* operator()(int j) const { return base + j * stride; }
};
struct GatheredRows {
  const float* const* rows;
  const float* operator()(int j) const { return rows[j]; }
};

// Element j of the result is the sum of all lanes of the j-th vector.
HWY_INLINE hn::Vec<hn::Full128<float>> SumsOfLanes(Vec v0, Vec v1, Vec v2, Vec v3) {
  const F32 d;
  const hn::Repartition<double, F32> d64;
  const Vec s01 = hn::Add(hn::InterleaveLower(d, v0, v1), hn::InterleaveUpper(d, v0, v1));
  const Vec s23 = hn::Add(hn::InterleaveLower(d, v2, v3), hn::InterleaveUpper(d, v2, v3));
  const auto lower = hn::InterleaveLower(d64, hn::BitCast(d64, s01), hn::BitCast(d64, s23));
  const auto upper = hn::InterleaveUpper(d64, hn::BitCast(d64, s01), hn::BitCast(d64, s23));
  const Vec sum = hn::Add(hn::BitCast(d, lower), hn::BitCast(d, upper));
#if HWY_TARGET <= HWY_AVX3
  const hn::Full256<float> d256;
  const auto half = hn::Add(hn::LowerHalf(d256, sum), hn::UpperHalf(d256, sum));
#else
  const auto half = sum;
#endif
#if HWY_TARGET <= HWY_AVX2
  const hn::Full128<float> d128;
  return hn::Add(hn::LowerHalf(d128, half), hn::UpperHalf(d128, half));
#else
  return half;
#endif
}

// Not inlined, so that every tile shape rounds alike.
HWY_NOINLINE float TailDot(const float* a, const float* b, int begin, int end) {
  float sum = 0;
  for (int k = begin; k < end; ++k) sum += a[k] * b[k];
  return sum;
}

// `Rows` x (4 * Groups) results. Each has one accumulator over k, whatever the tile's shape.
template <int Rows, int Groups>
HWY_INLINE void Tile(const float* HWY_RESTRICT a, int64_t lda, const float* const* HWY_RESTRICT b,
                     int k, float* HWY_RESTRICT c, int64_t ldc) {
  const F32 d;
  constexpr int kColumns = kTileColumns * Groups;
  Vec acc[Rows][kColumns];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) acc[i][j] = hn::Zero(d);
  const int lanes = static_cast<int>(hn::Lanes(d));
  const int whole = k / lanes * lanes;
  for (int s = 0; s < whole; s += lanes) {
    Vec column[kColumns];
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) column[j] = hn::LoadU(d, b[j] + s);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const Vec row = hn::LoadU(d, a + i * lda + s);
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) acc[i][j] = hn::MulAdd(row, column[j], acc[i][j]);
    }
  }
  const hn::Full128<float> d128;
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int g = 0; g < Groups; ++g) {
      Vec* v = &acc[i][kTileColumns * g];
      hn::StoreU(SumsOfLanes(v[0], v[1], v[2], v[3]), d128, c + i * ldc + kTileColumns * g);
    }
    if (whole < k) {
      for (int j = 0; j < kColumns; ++j) c[i * ldc + j] += TailDot(a + i * lda, b[j], whole, k);
    }
  }
}

// Columns [j, j + kTileColumns) of all rows given; the last columns may be fewer than a tile.
template <int Rows, class B>
HWY_INLINE void ColumnsOfRows(const float* a, int64_t lda, const B& b, int begin, int end, int k,
                              float* c, int64_t ldc) {
  // One or two rows alone would wait for the latency of a few accumulators.
  constexpr int kGroups = Rows == 1 ? 2 : 1;
  constexpr int kColumns = kTileColumns * kGroups;
  const float* rows[kColumns];
  int j = begin;
  for (; j + kColumns <= end; j += kColumns) {
    for (int t = 0; t < kColumns; ++t) rows[t] = b(j + t);
    Tile<Rows, kGroups>(a, lda, rows, k, c + j, ldc);
  }
  for (; j < end; j += kTileColumns) {
    const int valid = end - j < kTileColumns ? end - j : kTileColumns;
    for (int t = 0; t < kTileColumns; ++t) rows[t] = b(t < valid ? j + t : j);
    if (valid == kTileColumns) {
      Tile<Rows, 1>(a, lda, rows, k, c + j, ldc);
      continue;
    }
    float edge[Rows * kTileColumns];
    Tile<Rows, 1>(a, lda, rows, k, edge, kTileColumns);
    for (int i = 0; i < Rows; ++i)
      for (int t = 0; t < valid; ++t) c[i * ldc + j + t] = edge[i * kTileColumns + t];
  }
}

template <class B>
HWY_INLINE void LastRows(const float* a, int64_t lda, int m, const B& b, int begin, int end, int k,
                         float* c, int64_t ldc) {
  switch (m) {
    case 1:
      return ColumnsOfRows<1>(a, lda, b, begin, end, k, c, ldc);
    case 2:
      return ColumnsOfRows<2>(a, lda, b, begin, end, k, c, ldc);
#if HWY_TARGET <= HWY_AVX3
    case 3:
      return ColumnsOfRows<3>(a, lda, b, begin, end, k, c, ldc);
    case 4:
      return ColumnsOfRows<4>(a, lda, b, begin, end, k, c, ldc);
    case 5:
      return ColumnsOfRows<5>(a, lda, b, begin, end, k, c, ldc);
#endif
    default:
      return;
  }
}

template <class B>
void Multiply(const float* a, int64_t lda, int m, const B& b, int n, int k, float* c, int64_t ldc) {
  int block = static_cast<int>(kBlockFloats / (k > 0 ? k : 1)) / 8 * 8;
  if (block < 8) block = 8;
  for (int begin = 0; begin < n; begin += block) {
    const int end = begin + block < n ? begin + block : n;
    int i = 0;
    for (; i + kTileRows <= m; i += kTileRows)
      ColumnsOfRows<kTileRows>(a + i * lda, lda, b, begin, end, k, c + i * ldc, ldc);
    LastRows(a + i * lda, lda, m - i, b, begin, end, k, c + i * ldc, ldc);
  }
}

void MultiplyStrided(const float* a, int64_t lda, int m, const float* b, int64_t ldb, int n, int k,
                     float* c, int64_t ldc) {
  Multiply(a, lda, m, StridedRows{b, ldb}, n, k, c, ldc);
}

void MultiplyGathered(const float* a, int64_t lda, int m, const float* const* b, int n, int k,
                      float* c, int64_t ldc) {
  Multiply(a, lda, m, GatheredRows{b}, n, k, c, ldc);
}

// c[i, j..] += sum_s a[i, s] * b[s][j..] for `Rows` rows and `Vectors` vectors of columns.
template <int Rows, int Vectors>
HWY_INLINE void AccumulateTile(const float* HWY_RESTRICT a, int64_t lda,
                               const float* const* HWY_RESTRICT b, int k, int j,
                               float* HWY_RESTRICT c, int64_t ldc) {
  const F32 d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  Vec acc[Rows][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) acc[i][v] = hn::LoadU(d, c + i * ldc + j + v * lanes);
  for (int s = 0; s < k; ++s) {
    const float* row = b[s] + j;
    Vec values[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) values[v] = hn::LoadU(d, row + v * lanes);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const Vec factor = hn::Set(d, a[i * lda + s]);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) acc[i][v] = hn::MulAdd(factor, values[v], acc[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) hn::StoreU(acc[i][v], d, c + i * ldc + j + v * lanes);
}

HWY_NOINLINE void TailColumn(const float* a, const float* const* b, int k, int j, float* c) {
  for (int s = 0; s < k; ++s) c[j] += a[s] * b[s][j];
}

template <int Rows>
HWY_INLINE void AccumulateRows(const float* a, int64_t lda, const float* const* b, int k, int n,
                               float* c, int64_t ldc) {
#if HWY_TARGET <= HWY_AVX3
  constexpr int kVectors = 4;
#else
  constexpr int kVectors = 2;
#endif
  const int lanes = static_cast<int>(hn::Lanes(F32()));
  int j = 0;
  for (; j + kVectors * lanes <= n; j += kVectors * lanes)
    AccumulateTile<Rows, kVectors>(a, lda, b, k, j, c, ldc);
  for (; j + lanes <= n; j += lanes) AccumulateTile<Rows, 1>(a, lda, b, k, j, c, ldc);
  for (; j < n; ++j)
    for (int i = 0; i < Rows; ++i) TailColumn(a + i * lda, b, k, j, c + i * ldc);
}

void Accumulate(const float* a, int64_t lda, int m, const float* const* b, int k, int n, float* c,
                int64_t ldc) {
  int i = 0;
  for (; i + 4 <= m; i += 4) AccumulateRows<4>(a + i * lda, lda, b, k, n, c + i * ldc, ldc);
  for (; i < m; ++i) AccumulateRows<1>(a + i * lda, lda, b, k, n, c + i * ldc, ldc);
}

}  // namespace baleen::kernels::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baleen::kernels::simd {

HWY_EXPORT(MultiplyStrided);
HWY_EXPORT(MultiplyGathered);
HWY_EXPORT(Accumulate);

void MultiplyTransposed(const float* a, int64_t lda, int m, const float* b, int64_t ldb, int n,
                        int k, float* c, int64_t ldc) {
  HWY_DYNAMIC_DISPATCH(MultiplyStrided)(a, lda, m, b, ldb, n, k, c, ldc);
}

void MultiplyTransposed(const float* a, int64_t lda, int m, const float* const* b, int n, int k,
                        float* c, int64_t ldc) {
  HWY_DYNAMIC_DISPATCH(MultiplyGathered)(a, lda, m, b, n, k, c, ldc);
}

void MultiplyAccumulate(const float* a, int64_t lda, int m, const float* const* b, int k, int n,
                        float* c, int64_t ldc) {
  HWY_DYNAMIC_DISPATCH(Accumulate)(a, lda, m, b, k, n, c, ldc);
}

}  // namespace baleen::kernels::simd
#endif  // HWY_ONCE
