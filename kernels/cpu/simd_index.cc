#include <cstring>

#include "common/kv_layout.h"
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/simd_index.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h:
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace baleen::kernels::simd::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using Vec = hn::Vec<F32>;

// Vectors of keys in a tile, beside four heads: 16 accumulators with AVX-512, 8 with 16 registers.
#if HWY_TARGET <= HWY_AVX3
constexpr int kTileVectors = 4;
#else
constexpr int kTileVectors = 2;
#endif
constexpr int kTileHeads = 4;

// Four rows of four become four columns of four.
HWY_INLINE void TransposeBlock(const float* x, int64_t ldx, float* out, int64_t ldo) {
  const hn::Full128<float> d;
  const hn::Full128<double> d64;
  const auto v0 = hn::LoadU(d, x), v1 = hn::LoadU(d, x + ldx);
  const auto v2 = hn::LoadU(d, x + 2 * ldx), v3 = hn::LoadU(d, x + 3 * ldx);
  const auto low01 = hn::BitCast(d64, hn::InterleaveLower(d, v0, v1));
  const auto low23 = hn::BitCast(d64, hn::InterleaveLower(d, v2, v3));
  const auto high01 = hn::BitCast(d64, hn::InterleaveUpper(d, v0, v1));
  const auto high23 = hn::BitCast(d64, hn::InterleaveUpper(d, v2, v3));
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, low01, low23)), d, out);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, low01, low23)), d, out + ldo);
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, high01, high23)), d, out + 2 * ldo);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, high01, high23)), d, out + 3 * ldo);
}

void TransposePageKeys(const float* keys, int count, int dim, float* out) {
  if (count < kPageTokens) std::memset(out, 0, sizeof(float) * kPageTokens * dim);
  const int whole_keys = count / 4 * 4;
  const int whole_dim = dim / 4 * 4;
  for (int s = 0; s < whole_keys; s += 4) {
    const float* from = keys + int64_t{s} * dim;
    for (int i = 0; i < whole_dim; i += 4)
      TransposeBlock(from + i, dim, out + int64_t{i} * kPageTokens + s, kPageTokens);
  }
  for (int s = 0; s < count; ++s) {
    for (int i = s < whole_keys ? whole_dim : 0; i < dim; ++i)
      out[int64_t{i} * kPageTokens + s] = keys[int64_t{s} * dim + i];
  }
}

// sums += weights[h] * max(0, q[h] . keys) for `Heads` heads and a tile of keys. Every product is
// summed over the dimensions in order, whatever Heads is.
template <int Heads>
HWY_INLINE void AddHeads(const float* HWY_RESTRICT q, int dim, const float* HWY_RESTRICT keys,
                         const float* weights, Vec* sums) {
  const F32 d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  Vec acc[Heads][kTileVectors];
#pragma GCC unroll 8
  for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 8
    for (int v = 0; v < kTileVectors; ++v) acc[h][v] = hn::Zero(d);
  for (int i = 0; i < dim; ++i) {
    Vec column[kTileVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kTileVectors; ++v)
      column[v] = hn::LoadU(d, keys + int64_t{i} * kPageTokens + v * lanes);
#pragma GCC unroll 8
    for (int h = 0; h < Heads; ++h) {
      const Vec factor = hn::Set(d, q[int64_t{h} * dim + i]);
#pragma GCC unroll 8
      for (int v = 0; v < kTileVectors; ++v) acc[h][v] = hn::MulAdd(factor, column[v], acc[h][v]);
    }
  }
#pragma GCC unroll 8
  for (int h = 0; h < Heads; ++h) {
    const Vec weight = hn::Set(d, weights[h]);
#pragma GCC unroll 8
    for (int v = 0; v < kTileVectors; ++v)
      sums[v] = hn::MulAdd(weight, hn::Max(acc[h][v], hn::Zero(d)), sums[v]);
  }
}

void PageScores(const float* q, int heads, int dim, const float* keys, const float* weights,
                float* scores) {
  const F32 d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  for (int s = 0; s < kPageTokens; s += kTileVectors * lanes) {
    Vec sums[kTileVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kTileVectors; ++v) sums[v] = hn::Zero(d);
    int h = 0;
    for (; h + kTileHeads <= heads; h += kTileHeads)
      AddHeads<kTileHeads>(q + int64_t{h} * dim, dim, keys + s, weights + h, sums);
    for (; h < heads; ++h) AddHeads<1>(q + int64_t{h} * dim, dim, keys + s, weights + h, sums);
#pragma GCC unroll 8
    for (int v = 0; v < kTileVectors; ++v) hn::StoreU(sums[v], d, scores + s + v * lanes);
  }
}

}  // namespace baleen::kernels::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baleen::kernels::simd {

HWY_EXPORT(TransposePageKeys);
HWY_EXPORT(PageScores);

void TransposeKeys(const float* keys, int count, int dim, float* out) {
  HWY_DYNAMIC_DISPATCH(TransposePageKeys)(keys, count, dim, out);
}

void ScoreKeys(const float* q, int heads, int dim, const float* keys, const float* weights,
               float* scores) {
  HWY_DYNAMIC_DISPATCH(PageScores)(q, heads, dim, keys, weights, scores);
}

}  // namespace baleen::kernels::simd
#endif  // HWY_ONCE
