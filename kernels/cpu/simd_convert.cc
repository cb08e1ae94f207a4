#include <cstring>

#include "kernels/cpu/simd.h"
#include "kernels/float_formats.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/simd_convert.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h:
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace baleen::kernels::simd::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The vector forms of float_formats.h, bit for bit.
using F32 = hn::ScalableTag<float>;
using U32 = hn::Repartition<uint32_t, F32>;
using I32 = hn::Repartition<int32_t, F32>;
using U16 = hn::Rebind<uint16_t, F32>;
using U8 = hn::Rebind<uint8_t, F32>;

HWY_INLINE hn::Vec<U32> RoundBits(hn::Vec<F32> v) {
  const U32 d;
  const auto u = hn::BitCast(d, v);
  const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(d, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(u, hn::Set(d, 0x7FFF)), odd));
  const auto quiet = hn::Or(hn::ShiftRight<16>(u), hn::Set(d, 0x40));
  return hn::IfThenElse(hn::RebindMask(d, hn::IsNaN(v)), quiet, rounded);
}

// e4m3 through f16, which has its sign and exponent in the same order and a bias larger by 8:
// shifting the magnitude into place gives value / 256, subnormals included; 0x7F would be 480.
HWY_INLINE hn::Vec<F32> DecodeFinite(const uint8_t* q, hn::Vec<F32> factor) {
  const hn::Rebind<int8_t, F32> d8;
  const hn::Rebind<int16_t, F32> d16;
  const hn::Rebind<hwy::float16_t, F32> half;
  const auto v = hn::PromoteTo(d16, hn::LoadU(d8, reinterpret_cast<const int8_t*>(q)));
  const auto bits = hn::And(hn::ShiftLeft<7>(v), hn::Set(d16, static_cast<int16_t>(0xBF80)));
  return hn::Mul(hn::PromoteTo(F32(), hn::BitCast(half, bits)), factor);
}

HWY_INLINE bool HasNan(const uint8_t* q, int64_t n) {
  const hn::ScalableTag<uint8_t> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto nan = hn::Set(d, 0x7F);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    if (!hn::AllFalse(d, hn::Eq(hn::And(hn::LoadU(d, q + i), nan), nan))) return true;
  }
  for (; i < n; ++i) {
    if ((q[i] & 0x7F) == 0x7F) return true;
  }
  return false;
}

HWY_INLINE hn::Vec<I32> EncodeVector(hn::Vec<F32> v) {
  const I32 d;
  const F32 df;
  const auto u = hn::BitCast(d, v);
  const auto magnitude = hn::And(u, hn::Set(d, 0x7FFFFFFF));
  const auto sign = hn::And(hn::ShiftRight<24>(u), hn::Set(d, 0x80));
  const auto odd = hn::And(hn::ShiftRight<20>(magnitude), hn::Set(d, 1));
  const auto normal =
      hn::Sub(hn::ShiftRight<20>(hn::Add(hn::Add(magnitude, hn::Set(d, 0x7FFFF)), odd)),
              hn::Set(d, 120 << 3));
  const auto shifted = hn::Add(hn::BitCast(df, magnitude), hn::Set(df, 0x1p14f));
  const auto subnormal = hn::Sub(hn::BitCast(d, shifted), hn::Set(d, 0x46800000));
  auto bits = hn::IfThenElse(hn::Lt(magnitude, hn::Set(d, 0x3C800000)), subnormal, normal);
  bits = hn::IfThenElse(hn::Gt(magnitude, hn::Set(d, 0x43DFFFFF)), hn::Set(d, 0x7E), bits);
  bits = hn::IfThenElse(hn::Gt(magnitude, hn::Set(d, 0x7F800000)), hn::Set(d, 0x7F), bits);
  return hn::Or(hn::And(bits, hn::Set(d, 0x7F)), sign);
}

void ToF32(const uint16_t* x, int64_t n, float* out) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto bits = hn::ShiftLeft<16>(hn::PromoteTo(U32(), hn::LoadU(U16(), x + i)));
    hn::StoreU(hn::BitCast(d, bits), d, out + i);
  }
  for (; i < n; ++i) out[i] = kernels::Bf16ToF32(x[i]);
}

void ToBf16(const float* x, int64_t n, uint16_t* out) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto bits = hn::BitCast(I32(), RoundBits(hn::LoadU(d, x + i)));
    hn::StoreU(hn::DemoteTo(U16(), bits), U16(), out + i);
  }
  for (; i < n; ++i) out[i] = kernels::F32ToBf16(x[i]);
}

void Round(float* x, int64_t n) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto bits = hn::ShiftLeft<16>(RoundBits(hn::LoadU(d, x + i)));
    hn::StoreU(hn::BitCast(d, bits), d, x + i);
  }
  for (; i < n; ++i) x[i] = kernels::RoundToBf16(x[i]);
}

void Decode(const uint8_t* q, int64_t n, float scale, float* out) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto factor = hn::Set(d, scale * 256.0f);
  int64_t i = 0;
  if (!HasNan(q, n)) {
    for (; i + lanes <= n; i += lanes) hn::StoreU(DecodeFinite(q + i, factor), d, out + i);
  }
  for (; i < n; ++i) out[i] = kernels::E4m3ToF32(q[i]) * scale;
}

float Quantize(const float* x, int n, uint8_t* q) {
  const F32 d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  auto largest = hn::Zero(d);
  int i = 0;
  // Comparisons with NaN are false: it never becomes the largest.
  for (; i + lanes <= n; i += lanes) {
    const auto v = hn::Abs(hn::LoadU(d, x + i));
    largest = hn::IfThenElse(hn::Gt(v, largest), v, largest);
  }
  float amax = hn::GetLane(hn::MaxOfLanes(d, largest));
  for (; i < n; ++i) {
    const float v = x[i] < 0 ? -x[i] : x[i];
    if (v > amax) amax = v;
  }
  const float scale = QuantScale(amax);
  const float inverse = 1.0f / scale;  // exact: a power of two
  const auto factor = hn::Set(d, inverse);
  for (i = 0; i + lanes <= n; i += lanes) {
    const auto bits = EncodeVector(hn::Mul(hn::LoadU(d, x + i), factor));
    hn::StoreU(hn::DemoteTo(U8(), bits), U8(), q + i);
  }
  for (; i < n; ++i) q[i] = F32ToE4m3(x[i] * inverse);
  return scale;
}

}  // namespace baleen::kernels::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baleen::kernels::simd {

HWY_EXPORT(ToF32);
HWY_EXPORT(ToBf16);
HWY_EXPORT(Round);
HWY_EXPORT(Decode);
HWY_EXPORT(Quantize);

void Bf16ToF32(const uint16_t* x, int64_t n, float* out) { HWY_DYNAMIC_DISPATCH(ToF32)(x, n, out); }
void F32ToBf16(const float* x, int64_t n, uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(ToBf16)(x, n, out);
}
void RoundToBf16(float* x, int64_t n) { HWY_DYNAMIC_DISPATCH(Round)(x, n); }
void DecodeE4m3(const uint8_t* q, int64_t n, float scale, float* out) {
  HWY_DYNAMIC_DISPATCH(Decode)(q, n, scale, out);
}
float QuantizeGroup(const float* x, int n, uint8_t* q) {
  return HWY_DYNAMIC_DISPATCH(Quantize)(x, n, q);
}

}  // namespace baleen::kernels::simd
#endif  // HWY_ONCE
