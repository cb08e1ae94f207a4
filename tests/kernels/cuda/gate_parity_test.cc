#include <functional>

#include "kernels/cuda/parity.h"

namespace baleen::kernels {
namespace {

using testing::RandomFloats;

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Shape {
  int experts, groups, topk_groups, topk;
};

constexpr Shape kShapes[] = {{256, 8, 4, 8}, {16, 4, 2, 4},   {16, 4, 4, 4}, {8, 1, 1, 3},
                             {8, 8, 5, 2},   {64, 8, 3, 6},   {40, 5, 2, 7}, {128, 4, 2, 8},
                             {256, 1, 1, 8}, {256, 32, 3, 8}, {32, 1, 1, 32}};

struct Choice {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

// Are two of the row's values, that decide which groups or experts are chosen, closer than sigmoid
// may differ between two libraries?
bool NearTie(const float* logits, const std::vector<float>& bias, const Shape& s) {
  const int width = s.experts / s.groups;
  const auto gap_after = [](std::vector<double> v, int count) {
    std::sort(v.begin(), v.end(), std::greater<>());
    return count < int(v.size()) ? v[count - 1] - v[count] : 1.0;
  };
  std::vector<double> biased(s.experts), groups(s.groups);
  for (int e = 0; e < s.experts; ++e) biased[e] = 1 / (1 + std::exp(-double(logits[e]))) + bias[e];
  for (int g = 0; g < s.groups; ++g) {
    std::vector<double> group(biased.begin() + g * width, biased.begin() + (g + 1) * width);
    std::sort(group.begin(), group.end(), std::greater<>());
    groups[g] = group[0] + (width > 1 ? group[1] : 0);
  }
  std::vector<double> order = groups;
  std::sort(order.begin(), order.end(), std::greater<>());
  std::vector<double> kept;
  for (int e = 0; e < s.experts; ++e) {
    if (groups[e / width] >= order[s.topk_groups - 1]) kept.push_back(biased[e]);
  }
  return gap_after(groups, s.topk_groups) < 1e-6 || gap_after(kept, s.topk) < 1e-6;
}

class GateParity : public testing::GpuTest {
 protected:
  Choice OnCpu(const std::vector<float>& logits, const std::vector<float>& bias, const Shape& s,
               bool normalize = true, float scale = 2.5f) {
    const int rows = int(logits.size()) / s.experts;
    Choice c{std::vector<int32_t>(rows * s.topk), std::vector<float>(rows * s.topk)};
    cpu_->Gate({logits.data(), bias.data(), rows, s.experts, s.groups, s.topk_groups, s.topk,
                normalize, scale, c.ids.data(), c.weights.data()});
    return c;
  }
  Choice OnGpu(const std::vector<float>& logits, const std::vector<float>& bias, const Shape& s,
               bool normalize = true, float scale = 2.5f) {
    const int rows = int(logits.size()) / s.experts;
    const size_t count = size_t(rows) * s.topk;
    int32_t* ids = Poisoned<int32_t>(count);
    float* weights = Poisoned<float>(count);
    gpu_->Gate({Upload(logits), Upload(bias), rows, s.experts, s.groups, s.topk_groups, s.topk,
                normalize, scale, ids, weights});
    return {Download(ids, count), Download(weights, count)};
  }

  // Equal ids, but for rows that a near tie decides; weights to the precision of sigmoid.
  void ExpectSameChoice(const std::vector<float>& logits, const std::vector<float>& bias,
                        const Shape& s, bool normalize = true, float scale = 2.5f) {
    const Choice want = OnCpu(logits, bias, s, normalize, scale);
    const Choice got = OnGpu(logits, bias, s, normalize, scale);
    const int rows = int(logits.size()) / s.experts;
    int ties = 0;
    for (int r = 0; r < rows; ++r) {
      const auto row_of = [&](const auto& v) {
        return std::vector(v.begin() + r * s.topk, v.begin() + (r + 1) * s.topk);
      };
      if (row_of(got.ids) != row_of(want.ids)) {
        ASSERT_TRUE(NearTie(&logits[size_t(r) * s.experts], bias, s))
            << "row " << r << " of " << s.experts << " experts in " << s.groups << " groups";
        ++ties;
        continue;
      }
      for (int j = r * s.topk; j < (r + 1) * s.topk; ++j) {
        if (std::isnan(want.weights[j]) && std::isnan(got.weights[j])) continue;
        ASSERT_NEAR(got.weights[j], want.weights[j], 2e-6 * std::fabs(want.weights[j])) << r;
      }
    }
    EXPECT_LE(ties, rows / 100);
  }
};

TEST_F(GateParity, ChoosesAsTheCpu) {
  for (const Shape& s : kShapes) {
    for (const int rows : {1, 3, 4, 5, 515}) {
      const std::vector<float> logits = RandomFloats(size_t(rows) * s.experts, rows + s.experts);
      std::vector<float> bias = RandomFloats(s.experts, 2);
      for (float& b : bias) b *= 0.1f;
      ExpectSameChoice(logits, bias, s);
      ExpectSameChoice(logits, bias, s, /*normalize=*/false, /*scale=*/1.0f);
    }
  }
}

TEST_F(GateParity, BiasOfAnySizeChooses) {
  for (const Shape& s : kShapes) {
    for (const float size : {100.0f, 1e4f}) {
      std::vector<float> bias = RandomFloats(s.experts, 5);
      for (float& b : bias) b = -size * std::fabs(b);
      ExpectSameChoice(RandomFloats(size_t(9) * s.experts, 4), bias, s);
    }
  }
}

// Values from a small set: many are equal, in one lane, in several, in several groups.
TEST_F(GateParity, TiesGoToTheLowerExpertAndGroup) {
  for (const Shape& s : kShapes) {
    for (const int levels : {1, 2, 3, 7}) {
      const int rows = 64;
      std::mt19937 rng(levels + s.experts);
      std::vector<float> logits(size_t(rows) * s.experts);
      for (float& v : logits) v = 0.3f + 0.7f * float(rng() % levels);
      const std::vector<float> bias(s.experts, 0.25f);
      const Choice want = OnCpu(logits, bias, s);
      const Choice got = OnGpu(logits, bias, s);
      ASSERT_EQ(got.ids, want.ids) << s.experts << " experts, " << levels << " levels";
    }
  }
}

TEST_F(GateParity, SigmoidEndsAndZerosOfBothSigns) {
  for (const Shape& s : kShapes) {
    const float values[] = {-kInf, -200.0f, -80.0f, 0.0f, -0.0f, 20.0f, 200.0f, kInf};
    const int rows = 32;
    std::mt19937 rng(s.topk);
    std::vector<float> logits(size_t(rows) * s.experts), bias(s.experts);
    for (float& v : logits) v = values[rng() % 8];
    for (float& b : bias) b = rng() % 2 == 0 ? 0.0f : -0.0f;
    EXPECT_EQ(OnGpu(logits, bias, s).ids, OnCpu(logits, bias, s).ids);
  }
}

TEST_F(GateParity, NanIsChosenLastAndIdsStayDistinct) {
  for (const Shape& s : kShapes) {
    for (const int one_in : {1, 2, 3, 20}) {
      const int rows = 32;
      std::mt19937 rng(one_in);
      std::vector<float> logits = RandomFloats(size_t(rows) * s.experts, one_in);
      for (float& v : logits) {
        if (rng() % one_in == 0) v = std::copysign(NAN, rng() % 2 == 0 ? 1.0f : -1.0f);
      }
      const std::vector<float> bias(s.experts, 0.0f);
      EXPECT_EQ(OnGpu(logits, bias, s).ids, OnCpu(logits, bias, s).ids)
          << s.experts << " experts, NaN one in " << one_in;
    }
  }
}

TEST_F(GateParity, ARowAloneAndInABatchHasTheSameBits) {
  const Shape s = kShapes[0];
  const int rows = 131;
  const std::vector<float> logits = RandomFloats(size_t(rows) * s.experts, 8);
  const std::vector<float> bias = RandomFloats(s.experts, 9);
  const Choice batch = OnGpu(logits, bias, s);
  EXPECT_EQ(OnGpu(logits, bias, s).weights, batch.weights) << "twice the same";
  for (int r : {0, 1, 66, 130}) {
    const auto row = logits.begin() + r * s.experts;
    const Choice alone = OnGpu({row, row + s.experts}, bias, s);
    for (int j = 0; j < s.topk; ++j) {
      EXPECT_EQ(alone.ids[j], batch.ids[r * s.topk + j]);
      EXPECT_EQ(alone.weights[j], batch.weights[r * s.topk + j]);
    }
  }
}

TEST_F(GateParity, NoRowsLaunchNothing) {
  EXPECT_TRUE(OnGpu({}, std::vector<float>(16), kShapes[1]).ids.empty());
}

using GateParityDeath = GateParity;

TEST_F(GateParityDeath, RefusesWhatItCannotServe) {
  const std::vector<float> values(512);
  int32_t ids[64];
  float weights[64];
  EXPECT_DEATH(gpu_->Gate({values.data(), values.data(), 1, 512, 8, 4, 8, true, 1, ids, weights}),
               "at most 8 experts");
  EXPECT_DEATH(gpu_->Gate({values.data(), values.data(), 1, 24, 2, 1, 8, true, 1, ids, weights}),
               "a group must be");
}

}  // namespace
}  // namespace baleen::kernels
