#include "kernels/float_formats.h"

#include <cmath>

#include "gtest/gtest.h"

namespace baleen::kernels {
namespace {

TEST(FloatFormats, E4m3DecodesByItsDefinition) {
  for (int code = 0; code < 256; ++code) {
    const int exponent = code >> 3 & 15;
    const int mantissa = code & 7;
    if (exponent == 15 && mantissa == 7) {
      EXPECT_TRUE(std::isnan(E4m3ToF32(code)));
      continue;
    }
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    EXPECT_EQ(E4m3ToF32(code), code & 0x80 ? -magnitude : magnitude) << code;
    EXPECT_EQ(std::signbit(E4m3ToF32(code)), (code & 0x80) != 0);
    EXPECT_EQ(F32ToE4m3(E4m3ToF32(code)), code);
  }
}

// Walks the midpoints of all neighbours: the even code wins, and a step aside goes to that side.
TEST(FloatFormats, E4m3RoundsToNearestEven) {
  for (int code = 0; code < 0x7E; ++code) {
    const float low = E4m3ToF32(code);
    const float high = E4m3ToF32(code + 1);
    const float middle = (low + high) / 2;
    EXPECT_EQ(F32ToE4m3(middle), code % 2 == 0 ? code : code + 1) << middle;
    EXPECT_EQ(F32ToE4m3(std::nextafter(middle, 0.0f)), code) << middle;
    EXPECT_EQ(F32ToE4m3(std::nextafter(middle, 1e9f)), code + 1) << middle;
    EXPECT_EQ(F32ToE4m3(-middle), F32ToE4m3(middle) | 0x80);
  }
}

TEST(FloatFormats, E4m3SaturatesAndKeepsNan) {
  EXPECT_EQ(F32ToE4m3(448), 0x7E);
  EXPECT_EQ(F32ToE4m3(480), 0x7E);
  EXPECT_EQ(F32ToE4m3(INFINITY), 0x7E);
  EXPECT_EQ(F32ToE4m3(-INFINITY), 0xFE);
  EXPECT_EQ(F32ToE4m3(NAN) & 0x7F, 0x7F);
}

TEST(FloatFormats, Bf16RoundsToNearestEven) {
  EXPECT_EQ(F32ToBf16(1.0f), 0x3F80);
  EXPECT_EQ(F32ToBf16(1.0f + 0x1p-8f), 0x3F80);  // half a step, even below
  EXPECT_EQ(F32ToBf16(1.0f + 0x3p-8f), 0x3F82);  // one and a half, even above
  EXPECT_EQ(F32ToBf16(std::nextafter(1.0f + 0x1p-8f, 2.0f)), 0x3F81);
  EXPECT_EQ(F32ToBf16(3.4e38f), 0x7F80);
  EXPECT_EQ(F32ToBf16(-INFINITY), 0xFF80);
  EXPECT_TRUE(std::isnan(Bf16ToF32(F32ToBf16(NAN))));
  for (int code = 0; code < 0x7F80; ++code) EXPECT_EQ(F32ToBf16(Bf16ToF32(code)), code);
}

TEST(FloatFormats, QuantScaleIsTheNextPowerOfTwo) {
  EXPECT_EQ(QuantScale(0), 0x1p-22f);  // the floor of 1e-4
  EXPECT_EQ(QuantScale(1e-4f), 0x1p-22f);
  EXPECT_EQ(QuantScale(448), 1.0f);  // an exact power of two stays
  EXPECT_EQ(QuantScale(448 * 64.0f), 64.0f);
  EXPECT_EQ(QuantScale(std::nextafter(448.0f, 500.0f)), 2.0f);
  EXPECT_EQ(QuantScale(1.0f), 0x1p-8f);  // 1/448 rounds up to 1/256
  for (float amax = 1e-3f; amax < 1e6f; amax *= 1.37f) {
    const double s = double{amax * (1.0f / 448.0f)};
    EXPECT_EQ(QuantScale(amax), std::exp2(std::ceil(std::log2(s)))) << amax;
  }
}

}  // namespace
}  // namespace baleen::kernels
