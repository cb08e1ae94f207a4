#include "model/checkpoint/convert.h"

#include <cmath>
#include <cstring>

#include "gtest/gtest.h"
#include "kernels/float_formats.h"

namespace baleen::model {
namespace {

TEST(Convert, F16CoversNormalsSubnormalsAndSpecials) {
  EXPECT_EQ(F16ToF32(0x3C00), 1.0f);
  EXPECT_EQ(F16ToF32(0xC000), -2.0f);
  EXPECT_EQ(F16ToF32(0x7BFF), 65504.0f);
  EXPECT_EQ(F16ToF32(0x0001), 0x1p-24f);
  EXPECT_EQ(F16ToF32(0x03FF), 0x1p-24f * 1023);
  EXPECT_EQ(F16ToF32(0x0400), 0x1p-14f);
  EXPECT_TRUE(std::signbit(F16ToF32(0x8000)));
  EXPECT_TRUE(std::isinf(F16ToF32(0x7C00)));
  EXPECT_TRUE(std::isnan(F16ToF32(0x7C01)));
}

TEST(Convert, ReadsUnalignedData) {
  const float values[] = {1.5f, -2.25f};
  std::byte shifted[sizeof(values) + 1];
  std::memcpy(shifted + 1, values, sizeof(values));
  float out[2];
  ConvertToF32(FileDType::kF32, shifted + 1, 2, out);
  EXPECT_EQ(out[1], -2.25f);
  const uint16_t bf16 = kernels::F32ToBf16(0.5f);
  std::memcpy(shifted + 1, &bf16, 2);
  ConvertToF32(FileDType::kBf16, shifted + 1, 1, out);
  EXPECT_EQ(out[0], 0.5f);
}

// 130 rows and columns: the last block of each is two wide.
TEST(Convert, PartialBlocksUseTheirOwnScale) {
  constexpr int kN = 130;
  const std::vector<std::byte> ones(kN * kN, std::byte{0x38});  // 1.0
  const float scales[2][2] = {{1, 2}, {4, 8}};
  std::vector<float> out(3 * kN);
  DequantizeF8(ones.data(), reinterpret_cast<const std::byte*>(scales), 127, 3, kN, out.data());
  EXPECT_EQ(out[0], 1);
  EXPECT_EQ(out[127], 1);
  EXPECT_EQ(out[128], 2);
  EXPECT_EQ(out[kN], 4);  // row 128
  EXPECT_EQ(out[kN + 127], 4);
  EXPECT_EQ(out[kN + 129], 8);
  EXPECT_EQ(out[2 * kN + 128], 8);
}

TEST(Convert, RoundsAndTransposesToMemorysType) {
  const float in[2][3] = {{1, 2, 3}, {-4, 0.1f, 1e9f}};
  float f32[6];
  uint16_t bf16[6];
  TransposeTo(DType::kF32, in[0], 2, 3, reinterpret_cast<std::byte*>(f32));
  EXPECT_EQ(f32[0], 1);
  EXPECT_EQ(f32[1], -4);
  EXPECT_EQ(f32[4], 3);
  TransposeTo(DType::kBf16, in[0], 2, 3, reinterpret_cast<std::byte*>(bf16));
  for (int i = 0; i < 6; ++i) EXPECT_EQ(bf16[i], kernels::F32ToBf16(f32[i])) << i;
  RoundTo(DType::kBf16, in[0], 6, reinterpret_cast<std::byte*>(bf16));
  EXPECT_EQ(bf16[3], kernels::F32ToBf16(-4));
  EXPECT_EQ(bf16[4], kernels::F32ToBf16(0.1f));
  RoundTo(DType::kF32, in[0], 6, reinterpret_cast<std::byte*>(f32));
  EXPECT_EQ(f32[5], 1e9f);
}

}  // namespace
}  // namespace baleen::model
