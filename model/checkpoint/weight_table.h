#pragma once

#include <string>
#include <vector>

#include "model/config.h"
#include "model/shard.h"
#include "model/weights.h"

namespace baleen::model {

// How a tensor is stored in the checkpoint and in memory.
enum class WeightForm : uint8_t {
  kVector,      // F32, BF16 or F16; f32 in memory
  kPlain,       // a matrix that never has scales: F32, BF16 or F16
  kQuantizable  // a matrix, F8_E4M3 with "<name>_scale_inv", or as kPlain
};

// One tensor that a shard needs and where it goes.
struct WeightSpec {
  std::string name;            // in the checkpoint
  std::vector<int64_t> shape;  // [dim] or [out, in]
  WeightForm form = WeightForm::kVector;

  // Exactly one is set.
  const float** vector = nullptr;
  kernels::Weight* matrix = nullptr;
  AttentionWeights* absorbed = nullptr;  // kv_b: split into w_uk and w_uv

  // A matrix that is part of a fused one fills rows [first_row, first_row + shape[0]) of its
  // total_rows.
  int first_row = 0;
  int total_rows = 0;
};

// Every tensor `shard` needs, and no other (section 2.3 of docs/model.md; the MTP module's copies
// of embedding and head are not in it). Sizes the vectors of `weights`, which the specs point into
// and which must therefore outlive them unmoved.
//
//   stage: embedding on first() and with mtp, norm and head on last(), layers by [first, end)
//   rank:  routed experts by [first_expert, end_expert), everything else on every rank
std::vector<WeightSpec> WeightTable(const ModelConfig& config, const Shard& shard,
                                    ModelWeights& weights);

}  // namespace baleen::model
