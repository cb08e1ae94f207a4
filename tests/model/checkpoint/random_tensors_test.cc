#include "model/checkpoint/random_tensors.h"

#include <bit>
#include <cmath>

#include "model/checkpoint/loader.h"
#include "tests/model/memory_backend.h"
#include "tests/model/test_checkpoint.h"
#include "tests/testing/status_matchers.h"

namespace baleen::model {
namespace {

using ::baleen::testing::StatusIs;
using ::testing::HasSubstr;

ModelConfig Config() { return testing::PartialBlockConfig(); }

std::vector<float> Values(RandomTensors& tensors, const std::string& name) {
  const auto t = tensors.Find(name);
  BALEEN_CHECK_MSG(t.ok(), t.status().ToString().c_str());
  std::vector<float> values(testing::ElementCount(t->entry->shape));
  if (t->entry->dtype != FileDType::kF8E4M3) {
    ConvertToF32(t->entry->dtype, t->data, values.size(), values.data());
    return values;
  }
  const auto scales = tensors.Find(name + "_scale_inv");
  DequantizeF8(t->data, scales->data, 0, t->entry->shape[0], t->entry->shape[1], values.data());
  return values;
}

struct Moments {
  double mean = 0, deviation = 0;
};
Moments MomentsOf(const std::vector<float>& values) {
  double sum = 0, squares = 0;
  for (const float v : values) {
    EXPECT_TRUE(std::isfinite(v));
    sum += v;
    squares += double(v) * v;
  }
  const double mean = sum / double(values.size());
  return {mean, std::sqrt(squares / double(values.size()) - mean * mean)};
}

TEST(RandomTensors, ValuesSuitTheirUse) {
  RandomTensors tensors(Config(), WholeModel(Config(), true), /*seed=*/3);
  const std::string layer = "model.layers.1.";
  const Moments fp8 = MomentsOf(Values(tensors, layer + "self_attn.q_a_proj.weight"));
  EXPECT_NEAR(fp8.mean, 0, 0.002);
  EXPECT_NEAR(fp8.deviation, 0.023, 0.01);
  const Moments plain = MomentsOf(Values(tensors, layer + "mlp.gate.weight"));
  EXPECT_NEAR(plain.mean, 0, 0.005);
  EXPECT_NEAR(plain.deviation, 0.02, 0.005);
  const Moments norm = MomentsOf(Values(tensors, layer + "input_layernorm.weight"));
  EXPECT_NEAR(norm.mean, 1, 0.05);
  EXPECT_NEAR(norm.deviation, 0.1, 0.05);
  for (const float bias : Values(tensors, layer + "mlp.gate.e_score_correction_bias")) {
    EXPECT_LT(std::abs(bias), 0.01f);
  }
  for (const float scale : Values(tensors, layer + "self_attn.q_a_proj.weight_scale_inv")) {
    EXPECT_EQ(std::bit_cast<uint32_t>(scale) & 0x7FFFFF, 0u) << scale;
  }
}

TEST(RandomTensors, ATensorIsTheSameInEveryShardAndDiffersFromOthers) {
  RandomTensors whole(Config(), WholeModel(Config(), true), /*seed=*/3);
  RandomTensors rank(Config(), ExpertRank(Config(), false, 1, 2), /*seed=*/3);
  RandomTensors other(Config(), WholeModel(Config(), true), /*seed=*/4);
  const std::string name = "model.layers.1.mlp.experts.3.down_proj.weight";
  EXPECT_EQ(Values(whole, name), Values(rank, name));
  EXPECT_NE(Values(whole, name), Values(other, name));
  EXPECT_NE(Values(whole, name), Values(whole, "model.layers.1.mlp.experts.2.down_proj.weight"));
}

TEST(RandomTensors, TheLoaderTakesThemForEveryShard) {
  for (const Shard& shard : {WholeModel(Config(), true), PipelineStage(Config(), true, 0, 2),
                             ExpertRank(Config(), true, 1, 2)}) {
    testing::MemoryBackend backend;
    RandomTensors tensors(Config(), shard, /*seed=*/0);
    LoadReport report;
    BALEEN_ASSERT_OK(LoadWeights(backend, tensors, Config(), shard, &report));
    EXPECT_EQ(report.tensors, int(tensors.names().size()));
  }
}

TEST(RandomTensors, NamesWhatTheShardLacks) {
  RandomTensors tensors(Config(), ExpertRank(Config(), false, 1, 2), /*seed=*/0);
  EXPECT_THAT(tensors.Find("model.layers.1.mlp.experts.0.down_proj.weight"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("experts.0")));
}

}  // namespace
}  // namespace baleen::model
