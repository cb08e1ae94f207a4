#include "model/shard.h"

#include <algorithm>
#include <cmath>

#include "common/check.h"
#include "model/config.h"

namespace baleen::model {
namespace {

// In units of one layer: every layer multiplies about as many weights a token, dense or MoE
// (section 8.1 of docs/model.md); MTP is a layer and a projection; the head sees few rows.
constexpr double kMtpCost = 1.0;
constexpr double kHeadCost = 0.5;

// The first layer of stage `index`: where the cost before it is closest to its share, but at least
// one layer a stage.
int FirstLayer(const ModelConfig& config, bool mtp, int index, int size) {
  const int layers = config.num_hidden_layers;
  const double total = layers + kHeadCost + (mtp ? kMtpCost : 0);
  const int ideal = static_cast<int>(std::lround(total * index / size));
  return std::clamp(ideal, index, layers - (size - index));
}

}  // namespace

Shard WholeModel(const ModelConfig& config, bool mtp) {
  return {.first_layer = 0,
          .end_layer = config.num_hidden_layers,
          .mtp = mtp,
          .first_expert = 0,
          .end_expert = config.n_routed_experts,
          .num_layers = config.num_hidden_layers};
}

Shard PipelineStage(const ModelConfig& config, bool mtp, int index, int size) {
  BALEEN_CHECK(size >= 1 && size <= config.num_hidden_layers && index >= 0 && index < size);
  Shard shard = WholeModel(config, mtp && index == size - 1);
  shard.first_layer = FirstLayer(config, mtp, index, size);
  if (index < size - 1) shard.end_layer = FirstLayer(config, mtp, index + 1, size);
  return shard;
}

Shard ExpertRank(const ModelConfig& config, bool mtp, int index, int size) {
  BALEEN_CHECK(size >= 1 && config.n_routed_experts % size == 0 && index >= 0 && index < size);
  Shard shard = WholeModel(config, mtp);
  const int experts = config.n_routed_experts / size;
  shard.first_expert = index * experts;
  shard.end_expert = shard.first_expert + experts;
  return shard;
}

KvLayout LayoutOf(const ModelConfig& config, const Shard& shard, Numerics numerics) {
  return {.numerics = numerics,
          .layers = shard.cached_layers(),
          .kv_lora = config.kv_lora_rank,
          .rope = config.qk_rope_head_dim,
          .index_dim = config.index_head_dim};
}

size_t StageOffset(const ModelConfig& config, const Shard& shard, Numerics numerics) {
  return LayoutOf(config, shard, numerics).LayerBytes() * size_t(shard.first_layer);
}

}  // namespace baleen::model
