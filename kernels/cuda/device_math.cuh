#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "kernels/float_formats.h"

// Quantisation, sums and SiLU, as several kernels need them.
namespace baleen::kernels::cuda {

inline constexpr int kWarpThreads = 32;
inline constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// Quantisation (4.1). A group of 128 values that share a scale lies in 128 / N neighbouring lanes,
// N consecutive values in each. Results are those of QuantScale and F32ToE4m3 bit for bit, whatever
// finite values or NaNs the group holds.

// The scale of each lane's group; the whole warp calls it.
template <int N>
__device__ float GroupScale(const float (&v)[N]) {
  float amax = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) amax = fmaxf(amax, fabsf(v[i]));  // ignores NaN
#pragma unroll
  for (int d = kQuantGroup / N / 2; d > 0; d /= 2) {
    amax = fmaxf(amax, __shfl_xor_sync(kAllLanes, amax, d));
  }
  return QuantScale(amax);
}

// 1 / scale, exact: the exponent of a power of two with its sign changed. 0 when scale is infinite.
__device__ inline float InverseScale(float scale) {
  return __int_as_float(max((254 << 23) - __float_as_int(scale), 0));
}

// v * inverse as four e4m3 bytes, the first in the lowest. The conversion of the hardware drops the
// sign of a NaN; for other values setting the sign again changes nothing.
__device__ inline uint32_t QuantizeFour(const float* v, float inverse) {
  const float2 low = {v[0] * inverse, v[1] * inverse};
  const float2 high = {v[2] * inverse, v[3] * inverse};
  const uint32_t bytes = __nv_cvt_float2_to_fp8x2(low, __NV_SATFINITE, __NV_E4M3) |
                         uint32_t{__nv_cvt_float2_to_fp8x2(high, __NV_SATFINITE, __NV_E4M3)} << 16;
  const uint32_t low_signs = __byte_perm(__float_as_uint(v[0]), __float_as_uint(v[1]), 0x0073);
  const uint32_t high_signs = __byte_perm(__float_as_uint(v[2]), __float_as_uint(v[3]), 0x0073);
  return bytes | (__byte_perm(low_signs, high_signs, 0x5410) & 0x80808080u);
}

// A lane's share of its group.
template <int N>
__device__ void QuantizeShare(const float (&v)[N], float scale, uint32_t (&bytes)[N / 4]) {
  const float inverse = InverseScale(scale);
#pragma unroll
  for (int i = 0; i < N / 4; ++i) bytes[i] = QuantizeFour(v + 4 * i, inverse);
}

__device__ inline float WarpSum(float v) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(kAllLanes, v, d);
  return v;
}

// silu(g) * u in f32. exp stands still from 88 on, where it is still finite, and both sides of the
// quotient are divided by 4: __fdividef wants a divisor below 2^126.
__device__ inline float SiluTimes(float g, float u) {
  const float e = expf(fminf(-g, 88.0f));
  return __fdividef(g * 0.25f, fmaf(e, 0.25f, 0.25f)) * u;
}

}  // namespace baleen::kernels::cuda
