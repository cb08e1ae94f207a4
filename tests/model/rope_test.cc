#include "model/rope.h"

#include <cmath>

#include "gtest/gtest.h"

namespace baleen::model {
namespace {

RopeConfig V32Rope() {
  return {.theta = 10000, .yarn = true, .factor = 40, .original_max_position = 4096};
}

// Reference values of section 3.2 of docs/model.md.
TEST(Rope, InverseFrequenciesAreV32s) {
  const std::vector<double> f = RopeInverseFrequencies(V32Rope(), 64);
  const std::pair<int, double> wanted[] = {
      {0, 1.000000000e+00},  {1, 7.498942093e-01},  {8, 1.000000000e-01},  {10, 5.623413252e-02},
      {11, 3.900692657e-02}, {12, 2.687936011e-02}, {13, 1.837814622e-02}, {15, 8.334508951e-03},
      {16, 5.500000000e-03}, {17, 3.561997494e-03}, {18, 2.249365301e-03}, {20, 7.905694150e-04},
      {22, 1.778279410e-04}, {23, 3.333803580e-05}, {24, 2.500000000e-05}, {31, 3.333803580e-06}};
  ASSERT_EQ(f.size(), 32u);
  for (const auto& [j, value] : wanted) EXPECT_NEAR(f[j], value, value * 1e-9) << j;
}

TEST(Rope, WithoutYarnFrequenciesAreUnscaled) {
  const std::vector<double> f = RopeInverseFrequencies(RopeConfig{}, 64);
  for (int j = 0; j < 32; ++j) EXPECT_NEAR(f[j], std::pow(10000.0, -j / 32.0), 1e-12);
}

TEST(Rope, AttentionScaleIncludesMscaleSquared) {
  ModelConfig c;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.rope = V32Rope();
  EXPECT_NEAR(AttentionScale(c), 0.1352337788608801, 1e-12);
  c.rope = {};
  EXPECT_NEAR(AttentionScale(c), 0.07216878364870322, 1e-12);
}

TEST(Rope, TableHoldsCosAndSinOfEachPosition) {
  const RopeTable table = MakeRopeTable(V32Rope(), 64, 5000);
  ASSERT_EQ(table.cos.size(), 5000u * 32);
  EXPECT_EQ(table.cos[0], 1.0f);
  EXPECT_EQ(table.sin[0], 0.0f);
  EXPECT_NEAR(table.cos[4999 * 32], std::cos(4999.0), 1e-6);
  EXPECT_NEAR(table.sin[4999 * 32 + 16], std::sin(4999 * 5.5e-3), 1e-5);
}

TEST(Rope, UnequalMscalesScaleTheTable) {
  RopeConfig rope = V32Rope();
  rope.mscale_all_dim = 0.5;
  const double wanted = (0.1 * std::log(40.0) + 1) / (0.05 * std::log(40.0) + 1);
  EXPECT_NEAR(MakeRopeTable(rope, 64, 1).cos[0], wanted, 1e-6);
}

}  // namespace
}  // namespace baleen::model
