#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <limits>

// Host conversions between f32, bf16 and fp8 E4M3FN, exact where the target can hold the value and
// round-to-nearest-even otherwise. Plain C++: usable by the loader, the CPU backend and tests.
namespace baleen::kernels {

inline constexpr float kE4m3Max = 448.0f;
inline constexpr float kQuantAmaxFloor = 1e-4f;  // of a group of 128 activations (4.1)
inline constexpr int kQuantGroup = 128;          // columns that share one scale

constexpr float Bf16ToF32(uint16_t v) { return std::bit_cast<float>(uint32_t{v} << 16); }

// NaN stays NaN (quiet), infinities stay; values beyond bf16's range become infinite.
constexpr uint16_t F32ToBf16(float v) {
  const uint32_t u = std::bit_cast<uint32_t>(v);
  if ((u & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>((u >> 16) | 0x40);
  return static_cast<uint16_t>((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}

constexpr float RoundToBf16(float v) { return Bf16ToF32(F32ToBf16(v)); }

namespace internal {

// seeeemmm: bias 7, no infinities, 0x7F and 0xFF are NaN, subnormal step 2^-9.
constexpr float DecodeE4m3(uint8_t v) {
  const uint32_t sign = uint32_t{v & 0x80u} << 24;
  const uint32_t magnitude = v & 0x7Fu;
  if (magnitude == 0x7F) return std::numeric_limits<float>::quiet_NaN();
  if (magnitude >= 8) return std::bit_cast<float>(sign | ((magnitude << 20) + (120u << 23)));
  const float f = static_cast<float>(magnitude) * 0x1p-9f;
  return sign != 0 ? -f : f;
}

constexpr std::array<float, 256> MakeE4m3Table() {
  std::array<float, 256> table{};
  for (int i = 0; i < 256; ++i) table[i] = DecodeE4m3(static_cast<uint8_t>(i));
  return table;
}

}  // namespace internal

inline constexpr std::array<float, 256> kE4m3Table = internal::MakeE4m3Table();

constexpr float E4m3ToF32(uint8_t v) { return kE4m3Table[v]; }

// Saturates at +-448 (infinities too); NaN becomes 0x7F with its sign.
constexpr uint8_t F32ToE4m3(float v) {
  const uint32_t u = std::bit_cast<uint32_t>(v);
  const uint8_t sign = static_cast<uint8_t>((u >> 24) & 0x80);
  const uint32_t magnitude = u & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return sign | 0x7F;
  if (magnitude >= 0x43E00000) return sign | 0x7E;  // >= 448
  if (magnitude < 0x3C800000) {                     // below the smallest normal, 2^-6
    const float shifted = std::bit_cast<float>(magnitude) + 0x1p14f;  // whose ulp is 2^-9
    return sign | static_cast<uint8_t>(std::bit_cast<uint32_t>(shifted) - 0x46800000u);
  }
  const uint32_t rounded = (magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20;
  return sign | static_cast<uint8_t>(rounded - (120u << 3));
}

// The scale of a group whose largest magnitude is `amax`: max(amax, 1e-4) / 448 rounded UP to a
// power of two on the bits (4.1). Exact powers of two stay.
constexpr float QuantScale(float amax) {
  const float s = (amax > kQuantAmaxFloor ? amax : kQuantAmaxFloor) * (1.0f / kE4m3Max);
  return std::bit_cast<float>((std::bit_cast<uint32_t>(s) + 0x7FFFFF) & 0xFF800000u);
}

}  // namespace baleen::kernels
