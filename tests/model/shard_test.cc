#include "model/shard.h"

#include "gtest/gtest.h"
#include "model/config.h"

namespace baleen::model {
namespace {

ModelConfig Layers(int layers) {
  ModelConfig c;
  c.num_hidden_layers = layers;
  c.n_routed_experts = 256;
  c.kv_lora_rank = 512;
  c.qk_rope_head_dim = 64;
  c.index_head_dim = 128;
  return c;
}

TEST(Shard, StagesCoverEveryLayerOnceAndNoneIsEmpty) {
  for (const int layers : {1, 2, 4, 7, 61}) {
    const ModelConfig config = Layers(layers);
    for (int size = 1; size <= layers; ++size) {
      for (const bool mtp : {false, true}) {
        int next = 0;
        for (int s = 0; s < size; ++s) {
          const Shard shard = PipelineStage(config, mtp, s, size);
          EXPECT_EQ(shard.first_layer, next);
          EXPECT_GT(shard.end_layer, shard.first_layer);
          EXPECT_EQ(shard.mtp, mtp && s == size - 1);
          EXPECT_EQ(shard.first(), s == 0);
          EXPECT_EQ(shard.last(), s == size - 1);
          EXPECT_EQ(shard.end_expert - shard.first_expert, 256);
          next = shard.end_layer;
        }
        EXPECT_EQ(next, layers);
      }
    }
  }
}

TEST(Shard, TheLastStageHasFewerLayersForItsHeadAndMtp) {
  const ModelConfig config = Layers(61);
  for (int s = 0; s < 7; ++s) {
    const Shard shard = PipelineStage(config, /*mtp=*/true, s, 8);
    EXPECT_GE(shard.end_layer - shard.first_layer, 7);
    EXPECT_LE(shard.end_layer - shard.first_layer, 8);
  }
  const Shard last = PipelineStage(config, /*mtp=*/true, 7, 8);
  EXPECT_EQ(last.end_layer - last.first_layer, 6);
}

TEST(Shard, RanksHoldAllLayersAndAPartOfTheExperts) {
  const ModelConfig config = Layers(61);
  for (int r = 0; r < 8; ++r) {
    const Shard shard = ExpertRank(config, true, r, 8);
    EXPECT_EQ(shard.first_expert, r * 32);
    EXPECT_EQ(shard.end_expert, (r + 1) * 32);
    EXPECT_TRUE(shard.first() && shard.last() && shard.mtp);
    EXPECT_EQ(shard.cached_layers(), 62);
  }
}

// The promise the hand-over rests on: the stages' pieces tile a whole page in order.
TEST(Shard, StagePiecesTileAPage) {
  const ModelConfig config = Layers(61);
  for (const Numerics numerics : {Numerics::kExact, Numerics::kFp8}) {
    for (const int size : {1, 2, 8, 61}) {
      size_t next = 0;
      for (int s = 0; s < size; ++s) {
        const Shard shard = PipelineStage(config, true, s, size);
        EXPECT_EQ(StageOffset(config, shard, numerics), next);
        next += LayoutOf(config, shard, numerics).PageBytes();
      }
      EXPECT_EQ(next, LayoutOf(config, WholeModel(config, true), numerics).PageBytes());
    }
  }
  EXPECT_EQ(LayoutOf(config, WholeModel(config, true), Numerics::kFp8).PageBytes(), 3126784u);
}

}  // namespace
}  // namespace baleen::model
