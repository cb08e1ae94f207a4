#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace baleen::model {
namespace {

double Mscale(const RopeConfig& rope, double m) {
  if (!rope.yarn || rope.factor <= 1) return 1;
  return 0.1 * m * std::log(rope.factor) + 1;
}

// The pair whose wavelength fits `rotations` times into the original context.
double CorrectionPair(const RopeConfig& rope, int dims, double rotations) {
  return dims * std::log(rope.original_max_position / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(rope.theta));
}

}  // namespace

std::vector<double> RopeInverseFrequencies(const RopeConfig& rope, int dims) {
  std::vector<double> inverse(dims / 2);
  double low = 0;
  double high = 0;
  if (rope.yarn) {
    low = std::max(std::floor(CorrectionPair(rope, dims, rope.beta_fast)), 0.0);
    high = std::min(std::ceil(CorrectionPair(rope, dims, rope.beta_slow)), double(dims - 1));
    if (low == high) high += 0.001;
  }
  for (int j = 0; j < dims / 2; ++j) {
    const double f = std::pow(rope.theta, -2.0 * j / dims);
    const double ramp = rope.yarn ? std::clamp((j - low) / (high - low), 0.0, 1.0) : 0.0;
    inverse[j] = f / rope.factor * ramp + f * (1 - ramp);
  }
  return inverse;
}

double AttentionScale(const ModelConfig& config) {
  const double mscale = Mscale(config.rope, config.rope.mscale_all_dim);
  return mscale * mscale / std::sqrt(double(config.qk_head_dim()));
}

RopeTable MakeRopeTable(const RopeConfig& rope, int dims, int positions) {
  const std::vector<double> inverse = RopeInverseFrequencies(rope, dims);
  const double mscale = Mscale(rope, rope.mscale) / Mscale(rope, rope.mscale_all_dim);
  RopeTable table;
  table.cos.reserve(size_t(positions) * inverse.size());
  table.sin.reserve(size_t(positions) * inverse.size());
  for (int p = 0; p < positions; ++p) {
    for (const double f : inverse) {
      const float angle = static_cast<float>(p) * static_cast<float>(f);  // fp32, as the reference
      table.cos.push_back(static_cast<float>(std::cos(double(angle)) * mscale));
      table.sin.push_back(static_cast<float>(std::sin(double(angle)) * mscale));
    }
  }
  return table;
}

}  // namespace baleen::model
