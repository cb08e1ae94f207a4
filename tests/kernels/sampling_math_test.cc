#include "kernels/sampling_math.h"

#include <random>

#include "gmock/gmock.h"

namespace baleen::kernels {
namespace {

using ::testing::ElementsAre;

// Known answers of the reference implementation (Random123, kat_vectors).
TEST(Philox, KnownAnswers) {
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(Philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(
      Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(SamplingMath, RandomBitsAreUniformAndDependOnSeedAndPosition) {
  double sum = 0, square = 0;
  constexpr int kDraws = 100000;
  for (int i = 0; i < kDraws; ++i) {
    const double u = double(sampling::RandomBits(7, i) >> 11) * 0x1p-53;
    sum += u;
    square += u * u;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.005);
  EXPECT_NEAR(square / kDraws, 1.0 / 3, 0.005);
  EXPECT_NE(sampling::RandomBits(7, 1), sampling::RandomBits(8, 1));
  EXPECT_NE(sampling::RandomBits(7, 1), sampling::RandomBits(uint64_t{7} << 32, 1));
}

TEST(SamplingMath, WeightsAreTheExponential) {
  EXPECT_EQ(sampling::Weight(0), uint64_t{1} << sampling::kWeightBits);
  EXPECT_EQ(sampling::Weight(-0.0f), uint64_t{1} << sampling::kWeightBits);
  std::mt19937 rng(1);
  for (int i = 0; i < 200000; ++i) {
    const float x = -std::uniform_real_distribution<float>(0, i % 2 == 0 ? 1.0f : 31.0f)(rng);
    const double want = std::exp(double(x)) * 0x1p44;
    EXPECT_NEAR(double(sampling::Weight(x)), want, want * 0x1p-22 + 0.5) << x;
  }
  for (const float x : {-33.0f, -1e30f, -INFINITY, NAN}) EXPECT_EQ(sampling::Weight(x), 0u) << x;
}

TEST(SamplingMath, CutsStayInsideTheMass) {
  EXPECT_EQ(sampling::WantedMass(0.5f, 10), 5u);
  EXPECT_EQ(sampling::WantedMass(0.51f, 10), 6u);
  EXPECT_EQ(sampling::WantedMass(0, 10), 1u);
  EXPECT_EQ(sampling::WantedMass(0.9999999f, uint64_t{1} << 61),
            sampling::WantedMass(0.9999999f, uint64_t{1} << 61));
  EXPECT_LE(sampling::WantedMass(std::nextafter(1.0f, 0.0f), ~uint64_t{0} >> 3), ~uint64_t{0} >> 3);
  EXPECT_EQ(sampling::LeastWeight(0), 1u);
  EXPECT_EQ(sampling::LeastWeight(1), uint64_t{1} << 44);
  EXPECT_EQ(sampling::DrawnMass(0, 7), 0u);
  EXPECT_EQ(sampling::DrawnMass(~uint64_t{0}, 7), 6u);
}

TEST(SamplingMath, OrderIsThatOfTheLogits) {
  const float ascending[] = {-INFINITY, -3e38f, -1, -1e-40f, 0, 1e-40f, 1, 3e38f};
  for (size_t i = 1; i < std::size(ascending); ++i) {
    EXPECT_LT(sampling::OrderOf(ascending[i - 1]), sampling::OrderOf(ascending[i]));
  }
  EXPECT_EQ(sampling::OrderOf(-0.0f), sampling::OrderOf(0.0f));
  EXPECT_NE(sampling::OrderOf(-INFINITY), 0u);
}

}  // namespace
}  // namespace baleen::kernels
