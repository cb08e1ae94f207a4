#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "kernels/ops.h"
#include "kernels/philox.h"

// The arithmetic of Sample, for the host and the device, with equal bits on both: weights and their
// sums are integers, and where floats are used no product is added to anything unless it is exact,
// so that a compiler which fuses the two changes nothing.
namespace baleen::kernels {

// Orders logits as unsigned integers; both zeros are equal. NaN has no place in the order.
constexpr uint32_t OrderKey(float logit) {
  const uint32_t bits = std::bit_cast<uint32_t>(logit + 0.0f);  // -0 becomes +0
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}
constexpr float FromOrderKey(uint32_t key) {
  return std::bit_cast<float>((key >> 31) != 0 ? key & 0x7FFFFFFFu : ~key);
}

// A logit that no healthy forward pass makes: NaN or +inf. -inf is a token that cannot be.
constexpr bool Broken(float logit) { return !(logit < std::numeric_limits<float>::infinity()); }

// The uniform number in [0, 1) of token index `position` under `seed` (53 bits).
constexpr double UniformAt(uint64_t seed, uint64_t position) {
  const auto bits =
      Philox4x32({static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0, 0},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t word = uint64_t{bits[1]} << 32 | bits[0];
  return static_cast<double>(word >> 11) * 0x1p-53;
}

// A weight is a 44-bit fixed-point number: those of 2^18 tokens add up without overflow.
inline constexpr int kWeightBits = 44;
inline constexpr int kMaxVocabulary = 1 << 18;

namespace internal {

// 2^-(f / 2^32) * 2^31, by Horner's rule on a polynomial of degree 6 in f (interpolated at
// Chebyshev's points; relative error below 2^-26).
constexpr uint32_t InverseExp2(uint32_t f) {
  const auto times_f = [f](uint32_t v) { return static_cast<uint32_t>(uint64_t{v} * f >> 32); };
  uint32_t sum = 2773769u - times_f(246789u);
  sum = 20609476u - times_f(sum);
  sum = 119183688u - times_f(sum);
  sum = 515881603u - times_f(sum);
  sum = 1488522224u - times_f(sum);
  return (1u << 31) - times_f(sum);
}

}  // namespace internal

// 2^t * 2^kWeightBits for t <= 0, rounded down; 2^kWeightBits for t = 0, 0 for -inf and NaN.
// Relative error below 2^-25, absolute below 1 more.
constexpr uint64_t Exp2Weight(float t) {
  if (!(t >= -kWeightBits)) return 0;
  const auto fixed = static_cast<uint32_t>(t * -0x1p26f);
  const uint32_t mantissa = internal::InverseExp2(fixed << 6);
  return uint64_t{mantissa} << (kWeightBits - 31) >> (fixed >> 26);
}

// log2(e) / temperature: what turns a difference of logits into Exp2Weight's argument. Finite, so
// that a difference of 0 stays 0.
constexpr float WeightScale(float temperature) {
  const double scale = 0x1.71547652b82fep+0 / temperature;
  constexpr float kMax = std::numeric_limits<float>::max();
  return scale < kMax ? static_cast<float>(scale) : kMax;
}

// exp((logit - largest) / temperature) as a weight.
constexpr uint64_t WeightOf(float logit, float largest, float scale) {
  return Exp2Weight((logit - largest) * scale);
}

// The least weight that min_p leaves; never 0.
constexpr uint64_t LeastWeight(float min_p) {
  const double least = min_p * 0x1p44;  // exact
  const auto whole = static_cast<uint64_t>(least);
  const uint64_t rounded_up = whole < least ? whole + 1 : whole;
  return rounded_up > 0 ? rounded_up : 1;
}

// The mass that the set of top_p has to reach, in [1, total].
constexpr uint64_t TopPMass(float top_p, uint64_t total) {
  const double mass = static_cast<double>(top_p) * static_cast<double>(total);
  const auto whole = static_cast<uint64_t>(mass);
  const uint64_t rounded_up = static_cast<double>(whole) < mass ? whole + 1 : whole;
  if (rounded_up < 1) return 1;
  return rounded_up < total ? rounded_up : total;
}

// The token drawn is the first whose cumulative sum exceeds this; below total, which is not 0.
constexpr uint64_t DrawTarget(double uniform, uint64_t total) {
  const auto target = static_cast<uint64_t>(uniform * static_cast<double>(total));
  return target < total ? target : total - 1;
}

// What a row makes of the logit of `edit.token`. Counts are below 2^29, so the product is exact.
constexpr float EditedLogit(float logit, const LogitEdit& edit, const SamplingRow& row) {
  if (row.drafts < edit.masked_rows) return -std::numeric_limits<float>::infinity();
  const uint32_t before = edit.drafted & ((1u << row.drafts) - 1);
  const int generated = edit.generated + std::popcount(before);
  logit += edit.bias;
  if (edit.in_prompt != 0 || generated > 0) {
    logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
  }
  if (generated == 0) return logit;
  const double frequency = static_cast<double>(row.frequency_penalty) * generated;
  return static_cast<float>(logit - frequency - row.presence_penalty);
}

// The natural logarithm of a token's probability; log_mass is that of the sum of all weights as a
// multiple of the largest logit's.
constexpr float Logprob(float logit, float largest, double log_mass) {
  return static_cast<float>(static_cast<double>(logit) - largest - log_mass);
}

}  // namespace baleen::kernels
