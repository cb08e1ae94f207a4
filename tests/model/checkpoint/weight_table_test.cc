#include "model/checkpoint/weight_table.h"

#include <set>

#include "gmock/gmock.h"
#include "model/checkpoint/checkpoint.h"
#include "tests/model/test_checkpoint.h"

namespace baleen::model {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

std::set<std::string> Names(const ModelConfig& config, const Shard& shard) {
  ModelWeights weights;
  std::set<std::string> names;
  for (const WeightSpec& spec : WeightTable(config, shard, weights)) {
    EXPECT_TRUE(names.insert(spec.name).second) << spec.name;
  }
  return names;
}

// Sizes of DeepSeek-V3.2 (section 1 of docs/model.md).
ModelConfig V32() {
  const auto config =
      LoadModelConfig(std::string(BALEEN_SOURCE_DIR) + "/models/deepseek-v3.2-config");
  BALEEN_CHECK_MSG(config.ok(), config.status().ToString().c_str());
  return *config;
}

// The manifest's totals (section 2.1): 685,396,921,376 stored elements, of them 41,591,584 scales,
// in 92,425 tensors, two of which are the MTP copies that are not loaded.
TEST(WeightTable, AccountsForEveryElementOfThePublishedCheckpoint) {
  const ModelConfig config = V32();
  ModelWeights weights;
  int64_t tensors = 0;
  int64_t elements = 0;
  int64_t scales = 0;
  for (const WeightSpec& spec : WeightTable(config, WholeModel(config, true), weights)) {
    ++tensors;
    elements += testing::ElementCount(spec.shape);
    if (spec.form != WeightForm::kQuantizable) continue;
    ++tensors;
    scales += ScaleBlocks(spec.shape[0]) * ScaleBlocks(spec.shape[1]);
  }
  EXPECT_EQ(tensors, 92425 - 2);
  EXPECT_EQ(scales, 41591584);
  EXPECT_EQ(elements + scales + 2 * int64_t{129280} * 7168, 685396921376);
}

TEST(WeightTable, StagesShareNothingButTheEmbedding) {
  const ModelConfig config = V32();
  std::multiset<std::string> all;
  for (int s = 0; s < 8; ++s) {
    for (const auto& name : Names(config, PipelineStage(config, true, s, 8))) all.insert(name);
  }
  const std::set<std::string> whole = Names(config, WholeModel(config, true));
  EXPECT_EQ(all.size(), whole.size() + 1);
  EXPECT_EQ(all.count("model.embed_tokens.weight"), 2u);
}

TEST(WeightTable, RanksDifferInTheirExpertsOnly) {
  const ModelConfig config = testing::PartialBlockConfig();
  const std::set<std::string> names = Names(config, ExpertRank(config, true, 1, 2));
  EXPECT_THAT(names, Contains("model.layers.1.mlp.experts.3.gate_proj.weight"));
  EXPECT_THAT(names, Contains("model.layers.2.mlp.experts.2.down_proj.weight"));
  EXPECT_THAT(names, Not(Contains(HasSubstr("experts.1."))));
  EXPECT_THAT(names, Contains("model.layers.1.mlp.shared_experts.up_proj.weight"));
}

TEST(WeightTable, WithoutAnIndexerNoneOfItsTensorsIsAskedFor) {
  ModelConfig config = testing::PartialBlockConfig();
  config.has_indexer = false;
  EXPECT_THAT(Names(config, WholeModel(config, false)), Not(Contains(HasSubstr("indexer"))));
}

TEST(WeightTable, NamesExactlyTheTinyCheckpointsTensors) {
  const std::string directory = std::string(BALEEN_SOURCE_DIR) + "/models/tiny-dsv32";
  const auto config = LoadModelConfig(directory);
  ASSERT_TRUE(config.ok()) << config.status().ToString();
  // The MTP module's copies of embedding and head are stored, but not asked for.
  std::set<std::string> wanted = {"model.layers.4.embed_tokens.weight",
                                  "model.layers.4.shared_head.head.weight"};
  ModelWeights weights;
  for (const WeightSpec& spec : WeightTable(*config, WholeModel(*config, true), weights)) {
    wanted.insert(spec.name);
    if (spec.form == WeightForm::kQuantizable) wanted.insert(spec.name + "_scale_inv");
  }
  std::set<std::string> stored;
  const auto index =
      nlohmann::json::parse(testing::ReadFile(directory + "/model.safetensors.index.json"));
  for (const auto& [name, file] : index["weight_map"].items()) stored.insert(name);
  EXPECT_EQ(wanted, stored);
}

}  // namespace
}  // namespace baleen::model
