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
void PlusScaledRelu(const float* x, float factor, int64_t n, float* y) {
  const Vec f = hn::Set(F32(), factor);
  const Vec zero = hn::Zero(F32());
  Map(x, y, n, y, [f, zero](Vec a, Vec b) HWY_ATTR { return hn::MulAdd(hn::Max(a, zero), f, b); });
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

void Hadamard(float* x) {
  const F32 d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  // Distances below the vector's width by scalars, the others by whole vectors.
  for (int distance = 1; distance < 128; distance *= 2) {
    for (int base = 0; base < 128; base += 2 * distance) {
      if (distance < lanes) {
        for (int i = base; i < base + distance; ++i) {
          const float a = x[i];
          const float b = x[i + distance];
          x[i] = a + b;
          x[i + distance] = a - b;
        }
        continue;
      }
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
HWY_EXPORT(PlusScaledRelu);
HWY_EXPORT(TimesWeight);
HWY_EXPORT(ExpSum);
HWY_EXPORT(Silu);
HWY_EXPORT(Hadamard);

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
void AddScaledRelu(const float* x, float factor, int64_t n, float* y) {
  HWY_DYNAMIC_DISPATCH(PlusScaledRelu)(x, factor, n, y);
}
void MultiplyScaled(const float* x, const float* weight, float factor, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(TimesWeight)(x, weight, factor, n, out);
}
float ExpAndSum(float max, float* x, int64_t n) { return HWY_DYNAMIC_DISPATCH(ExpSum)(max, x, n); }
void SiluMul(const float* gate, const float* up, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(Silu)(gate, up, n, out);
}
void Hadamard128(float* x) { HWY_DYNAMIC_DISPATCH(Hadamard)(x); }

}  // namespace baleen::kernels::simd
#endif  // HWY_ONCE
