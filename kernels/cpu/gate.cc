// Gate (3.7).
#include <algorithm>
#include <cmath>

#include "kernels/cpu/cpu_backend.h"

namespace baleen::kernels::cpu {
namespace {

// Index of the largest unused value in [begin, end), the lower of equal ones; NaN only when
// nothing else is left.
int LargestUnused(const float* values, const bool* used, int begin, int end) {
  int best = -1;
  for (int i = begin; i < end; ++i) {
    if (used[i]) continue;
    const bool replace = best < 0 || values[i] > values[best] ||
                         (std::isnan(values[best]) && !std::isnan(values[i]));
    if (replace) best = i;
  }
  return best;
}

// Sum of the two largest biased scores of the group.
float GroupScore(const float* biased, bool* used, int begin, int end) {
  const int first = LargestUnused(biased, used, begin, end);
  if (end - begin == 1) return biased[first];
  used[first] = true;
  const int second = LargestUnused(biased, used, begin, end);
  used[first] = false;
  return biased[first] + biased[second];
}

struct GateScratch {
  float* scores;  // [experts] sigmoid
  float* biased;  // [experts]
  float* groups;  // [groups]
  bool* used;     // [experts], then [groups]
};

// Marks the experts of the groups that are not kept as used.
void MaskGroups(const GateParams& p, const GateScratch& s) {
  const int width = p.experts / p.groups;
  bool* kept = s.used + p.experts;
  std::fill(kept, kept + p.groups, false);
  for (int g = 0; g < p.groups; ++g) {
    s.groups[g] = GroupScore(s.biased, s.used, g * width, (g + 1) * width);
  }
  for (int i = 0; i < p.topk_groups; ++i) kept[LargestUnused(s.groups, kept, 0, p.groups)] = true;
  for (int e = 0; e < p.experts; ++e) s.used[e] = !kept[e / width];
}

void GateRow(const GateParams& p, int64_t r, const GateScratch& s) {
  if (p.sequences != nullptr && p.sequences[r] == p.empty_sequence) {
    std::fill_n(p.ids + r * p.topk, p.topk, -1);
    std::fill_n(p.weights + r * p.topk, p.topk, 0.0f);
    return;
  }
  const float* logits = p.logits + r * p.experts;
  for (int e = 0; e < p.experts; ++e) {
    s.scores[e] = 1.0f / (1.0f + std::exp(-logits[e]));
    s.biased[e] = s.scores[e] + p.bias[e];
    s.used[e] = false;
  }
  if (p.topk_groups < p.groups) MaskGroups(p, s);

  int32_t* ids = p.ids + r * p.topk;
  float* weights = p.weights + r * p.topk;
  for (int j = 0; j < p.topk; ++j) {
    ids[j] = LargestUnused(s.biased, s.used, 0, p.experts);
    s.used[ids[j]] = true;
  }
  std::sort(ids, ids + p.topk);
  float sum = 0;
  for (int j = 0; j < p.topk; ++j) sum += s.scores[ids[j]];
  const float factor = p.normalize ? p.scale / (sum + 1e-20f) : p.scale;
  for (int j = 0; j < p.topk; ++j) weights[j] = s.scores[ids[j]] * factor;
}

}  // namespace

void CpuBackend::Gate(const GateParams& p) {
  BALEEN_CHECK(p.groups >= 1 && p.experts % p.groups == 0);
  BALEEN_CHECK(p.topk_groups >= 1 && p.topk_groups <= p.groups);
  BALEEN_CHECK(p.topk <= p.experts / p.groups * p.topk_groups);
  ForEachRow(p.rows, int64_t{40} * p.experts, [&](Scratch& scratch, int64_t r) {
    float* floats = scratch.scores.Get<float>(2 * p.experts + p.groups);
    GateRow(p, r,
            {floats, floats + p.experts, floats + 2 * p.experts,
             scratch.keys.Get<bool>(p.experts + p.groups)});
  });
}

}  // namespace baleen::kernels::cpu
