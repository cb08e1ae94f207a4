#include "kernels/sampling_math.h"

#include <cmath>

#include "gmock/gmock.h"

namespace baleen::kernels {
namespace {

using ::testing::ElementsAre;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr uint64_t kOne = uint64_t{1} << kWeightBits;

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

TEST(UniformAt, IsUniformAndDependsOnSeedAndPosition) {
  double sum = 0, square = 0;
  constexpr int kDraws = 100000;
  for (int i = 0; i < kDraws; ++i) {
    const double u = UniformAt(7, i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    square += u * u;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.005);
  EXPECT_NEAR(square / kDraws, 1.0 / 3, 0.005);
  EXPECT_NE(UniformAt(7, 1), UniformAt(8, 1));
  EXPECT_NE(UniformAt(7, 1), UniformAt(uint64_t{7} << 32, 1));
  EXPECT_NE(UniformAt(7, 1), UniformAt(7, uint64_t{1} << 32));
}

TEST(UniformAt, IsTheUpperBitsOfPhilox) {
  EXPECT_EQ(UniformAt(0, 0), static_cast<double>(0xe169c58d6627e8d5u >> 11) * 0x1p-53);
}

TEST(OrderKey, OrdersAsTheLogitsDo) {
  const float ascending[] = {-kInf,  -3e38f, -1, -1e-38f, -1e-45f, 0,
                             1e-45f, 1e-38f, 1,  3e38f,   kInf};
  for (int i = 0; i + 1 < 11; ++i) {
    EXPECT_LT(OrderKey(ascending[i]), OrderKey(ascending[i + 1])) << i;
    EXPECT_EQ(FromOrderKey(OrderKey(ascending[i])), ascending[i]) << i;
  }
  EXPECT_EQ(OrderKey(-0.0f), OrderKey(0.0f));
}

TEST(Broken, IsNanAndPlusInfinity) {
  EXPECT_TRUE(Broken(NAN) && Broken(-NAN) && Broken(kInf));
  EXPECT_FALSE(Broken(-kInf) || Broken(3e38f) || Broken(-0.0f));
}

TEST(Exp2Weight, IsCloseToTheExactPower) {
  for (int i = 0; i <= 1000003; ++i) {
    const float t = -44.0f * static_cast<float>(i) / 1000003;
    const double want = std::exp2(static_cast<double>(t)) * 0x1p44;
    ASSERT_NEAR(static_cast<double>(Exp2Weight(t)), want, want * 0x1p-25 + 1) << t;
  }
}

TEST(Exp2Weight, EndsAreExact) {
  EXPECT_EQ(Exp2Weight(0.0f), kOne);
  EXPECT_EQ(Exp2Weight(-0.0f), kOne);
  EXPECT_EQ(Exp2Weight(-1e-45f), kOne);
  EXPECT_EQ(Exp2Weight(-44), 1);
  EXPECT_EQ(Exp2Weight(std::nextafter(-44.0f, -45.0f)), 0);
  EXPECT_EQ(Exp2Weight(-1e30f), 0);
  EXPECT_EQ(Exp2Weight(-kInf), 0);
  EXPECT_EQ(Exp2Weight(NAN), 0);
  for (int whole = 1; whole < 44; ++whole) {
    EXPECT_EQ(Exp2Weight(static_cast<float>(-whole)), kOne >> whole);
  }
}

TEST(Exp2Weight, RisesWithItsArgument) {
  uint64_t last = 0;
  for (int i = 0; i <= 300000; ++i) {
    const uint64_t weight = Exp2Weight(-3 + static_cast<float>(i) * 1e-5f);
    ASSERT_GE(weight, last) << i;
    last = weight;
  }
}

TEST(WeightOf, IsTheExponentialAtEveryTemperature) {
  for (float temperature : {1e-5f, 0.3f, 1.0f, 2.0f, 100.0f}) {
    const float scale = WeightScale(temperature);
    for (float gap : {0.0f, 1e-6f, 0.01f, 0.5f, 3.0f, 20.0f}) {
      const float logit = 5 - gap;
      const double x = (static_cast<double>(logit) - 5) / temperature;
      const double want = std::exp(x) * 0x1p44;
      EXPECT_NEAR(static_cast<double>(WeightOf(logit, 5, scale)), want,
                  want * (0x1p-25 - x * 0x1p-22) + 1);
    }
  }
}

TEST(WeightOf, NoTemperatureLosesTheLargest) {
  EXPECT_EQ(WeightOf(7, 7, WeightScale(1e-45f)), kOne);
  EXPECT_EQ(WeightOf(-3e38f, 3e38f, WeightScale(1)), 0);
}

TEST(LeastWeight, LeavesOutWhatCannotBeDrawn) {
  EXPECT_EQ(LeastWeight(0), 1);
  EXPECT_EQ(LeastWeight(1e-30f), 1);
  EXPECT_EQ(LeastWeight(0.25f), kOne / 4);
  EXPECT_EQ(LeastWeight(1), kOne);
}

TEST(TopPMass, IsRoundedUpWithinOneAndTotal) {
  EXPECT_EQ(TopPMass(0.5f, 100), 50);
  EXPECT_EQ(TopPMass(0.5f, 101), 51);
  EXPECT_EQ(TopPMass(1e-30f, 100), 1);
  EXPECT_EQ(TopPMass(1, 100), 100);
  EXPECT_EQ(TopPMass(1, (uint64_t{1} << 62) - 1), (uint64_t{1} << 62) - 1);
}

TEST(DrawTarget, IsBelowTheTotal) {
  constexpr double kLast = 1 - 0x1p-53;
  EXPECT_EQ(DrawTarget(0, 10), 0);
  EXPECT_EQ(DrawTarget(0.55, 10), 5);
  EXPECT_EQ(DrawTarget(kLast, 10), 9);
  for (uint64_t total : {uint64_t{1}, (uint64_t{1} << 54) + 2, (uint64_t{1} << 62) - 1}) {
    EXPECT_LT(DrawTarget(kLast, total), total);
  }
}

TEST(EditedLogit, CountsTheDraftsBeforeTheRow) {
  const LogitEdit edit = {.generated = 1, .drafted = 0b101};
  SamplingRow row = {.frequency_penalty = 1};
  const float want[] = {9, 8, 8, 7, 7};
  for (row.drafts = 0; row.drafts < 5; ++row.drafts) {
    EXPECT_EQ(EditedLogit(10, edit, row), want[row.drafts]) << row.drafts;
  }
}

TEST(EditedLogit, MasksTheFirstRows) {
  const LogitEdit edit = {.bias = 3, .masked_rows = 2};
  EXPECT_EQ(EditedLogit(1, edit, {.drafts = 0}), -kInf);
  EXPECT_EQ(EditedLogit(1, edit, {.drafts = 1}), -kInf);
  EXPECT_EQ(EditedLogit(1, edit, {.drafts = 2}), 4);
}

TEST(EditedLogit, AddsTheBiasBeforeThePenalties) {
  const LogitEdit edit = {.bias = -4, .generated = 2};
  const SamplingRow row = {
      .repetition_penalty = 2, .frequency_penalty = 0.25f, .presence_penalty = 0.5f};
  EXPECT_EQ(EditedLogit(3, edit, row), -3);
  EXPECT_EQ(EditedLogit(-kInf, edit, row), -kInf);
}

}  // namespace
}  // namespace baleen::kernels
