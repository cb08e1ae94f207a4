#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/ops.h"
#include "kernels/philox.h"

// The arithmetic of Sample, the same on every backend to the bit: floating-point operations that no
// compiler joins or reorders, and sums of integers.
namespace baleen::kernels::sampling {

#ifdef __CUDACC__
#define BALEEN_SAMPLING __host__ __device__ inline
#else
#define BALEEN_SAMPLING inline
#endif

// One rounding each. On a GPU the intrinsics are never fused; hosts compile this without
// contraction (kernels/CMakeLists.txt).
BALEEN_SAMPLING float Add(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}
BALEEN_SAMPLING float Mul(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

inline constexpr int kWeightBits = 44;  // sums of 2^19 of the largest weight fit 64 bits

// round(exp(x) 2^44), x <= 0, within 2^-22 of it; 0 for what is smaller than half.
BALEEN_SAMPLING uint64_t Weight(float x) {
  if (!(x > -32.0f)) return 0;  // exp(-32) 2^44 is below a quarter
  // x = k ln 2 + r; the first part of ln 2 has so few bits that its product is exact.
  const float k = rintf(Mul(x, 1.44269504f));
  const float r = Add(Add(x, Mul(k, -0.693359375f)), Mul(k, 2.12194440e-4f));
  float p = Add(Mul(1.0f / 5040, r), 1.0f / 720);
  p = Add(Mul(p, r), 1.0f / 120);
  p = Add(Mul(p, r), 1.0f / 24);
  p = Add(Mul(p, r), 1.0f / 6);
  p = Add(Mul(p, r), 0.5f);
  p = Add(Mul(p, r), 1.0f);
  p = Add(Mul(p, r), 1.0f);
  // p is in (0.7, 1.5): a whole number of 2^-24.
  const auto mantissa = static_cast<uint64_t>(Mul(p, 16777216.0f));
  const int shift = static_cast<int>(k) + kWeightBits - 24;
  if (shift >= 0) return mantissa << shift;
  return ((mantissa >> (-shift - 1)) + 1) >> 1;
}

// Weight of a logit whose row's largest is `largest`.
BALEEN_SAMPLING uint64_t WeightOf(float logit, float largest, float temperature) {
  return Weight(Add(logit, -largest) / temperature);
}

// The least weight that min_p leaves.
BALEEN_SAMPLING uint64_t LeastWeight(float min_p) {
  const double least = ceil(static_cast<double>(min_p) * (uint64_t{1} << kWeightBits));
  return least < 1 ? 1 : static_cast<uint64_t>(least);
}

// The mass that top_p's set must reach, of `total` > 0.
BALEEN_SAMPLING uint64_t WantedMass(float top_p, uint64_t total) {
  const double wanted = ceil(static_cast<double>(top_p) * static_cast<double>(total));
  if (wanted < 1) return 1;
  return wanted >= static_cast<double>(total) ? total : static_cast<uint64_t>(wanted);
}

// 64 random bits of token index `position` under `seed`.
BALEEN_SAMPLING uint64_t RandomBits(uint64_t seed, uint32_t position) {
  const auto bits = Philox4x32({position, 0, 0, 0}, {uint32_t(seed), uint32_t(seed >> 32)});
  return uint64_t{bits[1]} << 32 | bits[0];
}

// floor(total * uniform), uniform being the first 53 of `bits` as a fraction.
BALEEN_SAMPLING uint64_t DrawnMass(uint64_t bits, uint64_t total) {
  const uint64_t fraction = bits >> 11 << 11;
#ifdef __CUDA_ARCH__
  return __umul64hi(fraction, total);
#else
  return static_cast<uint64_t>((static_cast<unsigned __int128>(fraction) * total) >> 64);
#endif
}

// A number that orders as the logits do; both zeros have the same. Never 0.
BALEEN_SAMPLING uint32_t OrderOf(float logit) {
#ifdef __CUDA_ARCH__
  const uint32_t bits = __float_as_uint(Add(logit, 0.0f));
#else
  const uint32_t bits = std::bit_cast<uint32_t>(logit + 0.0f);
#endif
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}

// A logit that no healthy forward pass makes: NaN or +inf. -inf is a token that cannot be.
BALEEN_SAMPLING bool Broken(float logit) { return !(logit < INFINITY); }

// The logit with its edit, for a row of the sequence.
BALEEN_SAMPLING float Edited(float logit, const LogitEdit& edit, const SamplingRow& row) {
  int generated = edit.generated;
  for (int d = 0; d < row.drafts; ++d) generated += edit.drafted >> d & 1;
  if (row.drafts < edit.masked_rows) return -INFINITY;
  logit = Add(logit, edit.bias);
  if (edit.in_prompt != 0 || generated > 0) {
    logit = logit > 0 ? logit / row.repetition_penalty : Mul(logit, row.repetition_penalty);
  }
  if (generated == 0) return logit;
  logit = Add(logit, -Mul(row.frequency_penalty, static_cast<float>(generated)));
  return Add(logit, -row.presence_penalty);
}

// Logarithm of the sum of exp(logit), from the sum of their weights at temperature 1.
BALEEN_SAMPLING double LogSum(float largest, uint64_t total) {
  return largest + log(static_cast<double>(total) / (uint64_t{1} << kWeightBits));
}

#undef BALEEN_SAMPLING

}  // namespace baleen::kernels::sampling
