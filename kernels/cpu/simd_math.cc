#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/simd_math.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h:
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace baleen::kernels::simd::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using Vec = hn::Vec<F32>;
constexpr int kMaxLanes = HWY_MAX_BYTES / sizeof(float);

// out[i] = f(x[i], y[i]). The last elements go through the same vector code in a padded copy.
template <class F>
HWY_INLINE void Map(const float* x, const float* y, int64_t n, float* out, const F& f) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(f(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, out + i);
  if (i == n) return;
  HWY_ALIGN float padded_x[kMaxLanes] = {};
  HWY_ALIGN float padded_y[kMaxLanes] = {};
  std::memcpy(padded_x, x + i, size_t(n - i) * sizeof(float));
  std::memcpy(padded_y, y + i, size_t(n - i) * sizeof(float));
  hn::Store(f(hn::Load(d, padded_x), hn::Load(d, padded_y)), d, padded_x);
  std::memcpy(out + i, padded_x, size_t(n - i) * sizeof(float));
}

// Four running sums by position, added at the end: the order depends on n only.
template <class F>
HWY_INLINE float SumOf(const float* x, int64_t n, const F& f) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  Vec s0 = hn::Zero(d), s1 = hn::Zero(d), s2 = hn::Zero(d), s3 = hn::Zero(d);
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    s0 = hn::Add(s0, f(hn::LoadU(d, x + i)));
    s1 = hn::Add(s1, f(hn::LoadU(d, x + i + lanes)));
    s2 = hn::Add(s2, f(hn::LoadU(d, x + i + 2 * lanes)));
    s3 = hn::Add(s3, f(hn::LoadU(d, x + i + 3 * lanes)));
  }
  for (; i + lanes <= n; i += lanes) s0 = hn::Add(s0, f(hn::LoadU(d, x + i)));
  if (i < n) {
    HWY_ALIGN float padded[kMaxLanes] = {};
    std::memcpy(padded, x + i, size_t(n - i) * sizeof(float));
    s1 = hn::Add(s1, f(hn::Load(d, padded)));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
}

float SquareSum(const float* x, int64_t n) {
  return SumOf(x, n, [](Vec v) HWY_ATTR { return hn::Mul(v, v); });
}
float PlainSum(const float* x, int64_t n) {
  return SumOf(x, n, [](Vec v) HWY_ATTR { return v; });
}

float Largest(const float* x, int64_t n) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  float largest = -std::numeric_limits<float>::infinity();
  Vec v = hn::Set(d, largest);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) v = hn::Max(v, hn::LoadU(d, x + i));
  largest = hn::GetLane(hn::MaxOfLanes(d, v));
  for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

void Plus(const float* x, const float* y, int64_t n, float* out) {
  Map(x, y, n, out, [](Vec a, Vec b) HWY_ATTR { return hn::Add(a, b); });
}
void Times(float factor, float* x, int64_t n) {
  const Vec f = hn::Set(F32(), factor);
  Map(x, x, n, x, [f](Vec a, Vec) HWY_ATTR { return hn::Mul(a, f); });
}
void PlusScaled(const float* x, float factor, int64_t n, float* y) {
  const Vec f = hn::Set(F32(), factor);
  Map(x, y, n, y, [f](Vec a, Vec b) HWY_ATTR { return hn::MulAdd(a, f, b); });
}
void TimesWeight(const float* x, const float* weight, float factor, int64_t n, float* out) {
  const Vec f = hn::Set(F32(), factor);
  Map(x, weight, n, out, [f](Vec a, Vec w) HWY_ATTR { return hn::Mul(hn::Mul(a, f), w); });
}

// exp of values <= 0 (larger ones are fine too); -inf and anything below -104 give 0.
HWY_INLINE Vec ExpVector(Vec x) {
  const F32 d;
  const Vec floor = hn::Set(d, -104.0f);
  const Vec e = hn::Exp(d, hn::Max(x, floor));
  return hn::IfThenElseZero(hn::Gt(x, floor), e);
}

float ExpSum(float max, float* x, int64_t n) {
  const Vec m = hn::Set(F32(), max);
  Map(x, x, n, x, [m](Vec a, Vec) HWY_ATTR { return ExpVector(hn::Sub(a, m)); });
  return PlainSum(x, n);
}

void Silu(const float* gate, const float* up, int64_t n, float* out) {
  const F32 d;
  const Vec one = hn::Set(d, 1.0f);
  const Vec limit = hn::Set(d, 88.0f);  // exp stays finite; silu(-88) rounds to -5e-37
  Map(gate, up, n, out, [=](Vec g, Vec u) HWY_ATTR {
    const Vec e = hn::Exp(F32(), hn::Min(hn::Neg(g), limit));
    return hn::Mul(hn::Div(g, hn::Add(one, e)), u);
  });
}

// One butterfly inside a vector: lane i becomes its partner (i ^ distance) plus or minus itself.
HWY_INLINE Vec Butterfly(Vec v, Vec partner, int distance) {
  alignas(64) static constexpr float kSigns[4][16] = {
      {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1},
      {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1},
      {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1},
      {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1}};
  return hn::MulAdd(v, hn::Load(F32(), kSigns[distance]), partner);
}

void Hadamard(float* x) {
  const F32 d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  for (int i = 0; i < 128; i += lanes) {
    Vec v = hn::LoadU(d, x + i);
    v = Butterfly(v, hn::Shuffle2301(v), 0);
    v = Butterfly(v, hn::Shuffle1032(v), 1);
#if HWY_TARGET <= HWY_AVX2
    v = Butterfly(v, hn::SwapAdjacentBlocks(v), 2);
#endif
#if HWY_TARGET <= HWY_AVX3
    v = Butterfly(v, hn::ConcatLowerUpper(d, v, v), 3);
#endif
    hn::StoreU(v, d, x + i);
  }
  for (int distance = lanes; distance < 128; distance *= 2) {
    for (int base = 0; base < 128; base += 2 * distance) {
      for (int i = base; i < base + distance; i += lanes) {
        const Vec a = hn::LoadU(d, x + i);
        const Vec b = hn::LoadU(d, x + i + distance);
        hn::StoreU(hn::Add(a, b), d, x + i);
        hn::StoreU(hn::Sub(a, b), d, x + i + distance);
      }
    }
  }
  Times(0.08838834764831845f, x, 128);
}

void RotatePairs(float* x, int pairs, bool interleaved, const float* cos, const float* sin) {
  const F32 d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  int j = 0;
  for (; j + lanes <= pairs; j += lanes) {
    const Vec c = hn::LoadU(d, cos + j);
    const Vec s = hn::LoadU(d, sin + j);
    Vec a, b;
    if (interleaved) {
      hn::LoadInterleaved2(d, x + 2 * j, a, b);
    } else {
      a = hn::LoadU(d, x + j);
      b = hn::LoadU(d, x + j + pairs);
    }
    const Vec first = hn::Sub(hn::Mul(a, c), hn::Mul(b, s));
    const Vec second = hn::Add(hn::Mul(a, s), hn::Mul(b, c));
    if (interleaved) {
      hn::StoreInterleaved2(first, second, d, x + 2 * j);
    } else {
      hn::StoreU(first, d, x + j);
      hn::StoreU(second, d, x + j + pairs);
    }
  }
  for (; j < pairs; ++j) {
    float& first = x[interleaved ? 2 * j : j];
    float& second = x[interleaved ? 2 * j + 1 : j + pairs];
    const float a = first;
    first = a * cos[j] - second * sin[j];
    second = a * sin[j] + second * cos[j];
  }
}

}  // namespace baleen::kernels::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baleen::kernels::simd {

HWY_EXPORT(SquareSum);
HWY_EXPORT(PlainSum);
HWY_EXPORT(Largest);
HWY_EXPORT(Plus);
HWY_EXPORT(Times);
HWY_EXPORT(PlusScaled);
HWY_EXPORT(TimesWeight);
HWY_EXPORT(ExpSum);
HWY_EXPORT(Silu);
HWY_EXPORT(Hadamard);
HWY_EXPORT(RotatePairs);

float SumOfSquares(const float* x, int64_t n) { return HWY_DYNAMIC_DISPATCH(SquareSum)(x, n); }
float Sum(const float* x, int64_t n) { return HWY_DYNAMIC_DISPATCH(PlainSum)(x, n); }
float Max(const float* x, int64_t n) { return HWY_DYNAMIC_DISPATCH(Largest)(x, n); }
void Add(const float* x, const float* y, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(Plus)(x, y, n, out);
}
void Scale(float factor, float* x, int64_t n) { HWY_DYNAMIC_DISPATCH(Times)(factor, x, n); }
void AddScaled(const float* x, float factor, int64_t n, float* y) {
  HWY_DYNAMIC_DISPATCH(PlusScaled)(x, factor, n, y);
}
void MultiplyScaled(const float* x, const float* weight, float factor, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(TimesWeight)(x, weight, factor, n, out);
}
float ExpAndSum(float max, float* x, int64_t n) { return HWY_DYNAMIC_DISPATCH(ExpSum)(max, x, n); }
void SiluMul(const float* gate, const float* up, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(Silu)(gate, up, n, out);
}
void Hadamard128(float* x) { HWY_DYNAMIC_DISPATCH(Hadamard)(x); }
void Rotate(float* x, int pairs, bool interleaved, const float* cos, const float* sin) {
  HWY_DYNAMIC_DISPATCH(RotatePairs)(x, pairs, interleaved, cos, sin);
}

}  // namespace baleen::kernels::simd
#endif  // HWY_ONCE
