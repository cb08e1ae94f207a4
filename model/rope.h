#pragma once

#include <vector>

#include "model/config.h"

namespace baleen::model {

// Rotation speeds of the `dims` / 2 pairs, with YaRN's blend of scaled and unscaled ones (3.2).
std::vector<double> RopeInverseFrequencies(const RopeConfig& rope, int dims);

// qk_head_dim^-0.5 * mscale(factor, mscale_all_dim)^2, at every position (3.2).
double AttentionScale(const ModelConfig& config);

// cos and sin of position * inverse frequency, each [positions, dims / 2] f32, multiplied by
// mscale(factor, mscale) / mscale(factor, mscale_all_dim), which is 1 for DeepSeek-V3.2.
struct RopeTable {
  std::vector<float> cos;
  std::vector<float> sin;
};
RopeTable MakeRopeTable(const RopeConfig& rope, int dims, int positions);

}  // namespace baleen::model
