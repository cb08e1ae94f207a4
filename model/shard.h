#pragma once

#include "common/kv_layout.h"

namespace baleen::model {

struct ModelConfig;

// The part of a model that one process holds: a pipeline stage (some layers, all experts), a decode
// rank (all layers, some experts) or everything.
struct Shard {
  int first_layer = 0;
  int end_layer = 0;     // main layers [first_layer, end_layer)
  bool mtp = false;      // the MTP module; only together with the last layer
  int first_expert = 0;  // routed experts [first_expert, end_expert) of every MoE layer
  int end_expert = 0;
  int num_layers = 0;  // of the whole model

  bool first() const { return first_layer == 0; }        // holds the embedding (so does mtp)
  bool last() const { return end_layer == num_layers; }  // holds the final norm and the head
  int cached_layers() const { return end_layer - first_layer + (mtp ? 1 : 0); }
};

Shard WholeModel(const ModelConfig& config, bool mtp);

// Stage `index` of `size`: layers split evenly by cost (the head and MTP count on the last stage).
// size must be in [1, num_hidden_layers].
Shard PipelineStage(const ModelConfig& config, bool mtp, int index, int size);

// Rank `index` of `size`; size must divide n_routed_experts.
Shard ExpertRank(const ModelConfig& config, bool mtp, int index, int size);

// Cache layout of `shard`. The whole model's has the layers of all stages in order, so stage s's
// page is the piece [StageOffset, StageOffset + PageBytes) of a decode page.
KvLayout LayoutOf(const ModelConfig& config, const Shard& shard, Numerics numerics);

// Bytes from the begin of a whole model's page to the piece of `shard`'s layers.
size_t StageOffset(const ModelConfig& config, const Shard& shard, Numerics numerics);

}  // namespace baleen::model
