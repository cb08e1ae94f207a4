#include "model/indexer.h"

#include <algorithm>
#include <cmath>

#include "model/matrix_views.h"

namespace baleen::model {
namespace {

// Rotates the first `rope` dimensions of every head, in halves. kFp8 then spreads outliers over all
// dimensions with a Hadamard transform; without quantisation it would change no score.
void RotateAndSpread(const StepContext& step, const kernels::Matrix& x, int heads) {
  step.backend.Rope({.x = x,
                     .heads = heads,
                     .head_stride = step.config.index_head_dim,
                     .offset = 0,
                     .dims = step.config.qk_rope_head_dim,
                     .interleaved = false,
                     .positions = step.rows.positions,
                     .cos = step.rope_cos,
                     .sin = step.rope_sin});
  if (step.fp8) step.backend.Hadamard({.x = x});
}

// weights = (h W_w) * heads^-0.5 * dim^-0.5, times the scale of each quantised query
void HeadWeights(const StepContext& step, const IndexerWeights& w) {
  const ModelConfig& c = step.config;
  const auto& a = step.act.indexer;
  step.Linear(step.act.h, {}, w.weights_proj, a.weights);
  step.backend.ScaleIndexWeights(
      {.weights = Floats(a.weights),
       .rows = step.rows.rows,
       .heads = c.index_n_heads,
       .q_scales = a.q8.scales,
       .factor = 1.0f / std::sqrt(float(c.index_n_heads) * float(c.index_head_dim))});
}

}  // namespace

void StoreIndexKeys(const StepContext& step, const IndexerWeights& w,
                    const kernels::LayerCache& cache) {
  const auto& a = step.act.indexer;
  step.Linear(step.act.h, step.act.h8, w.wk, a.k);
  step.backend.LayerNorm({.x = a.k,
                          .weight = w.k_norm_weight,
                          .bias = w.k_norm_bias,
                          .out = a.k,
                          .eps = step.config.indexer_norm_eps});
  RotateAndSpread(step, a.k, /*heads=*/1);
  step.backend.StoreIndexKeys({.keys = a.k, .cache = cache, .rows = step.rows});
}

int ScoreGroup(std::span<const int32_t> positions, int first, int64_t score_count,
               int64_t* stride) {
  int rows = 0;
  int64_t width = 0;
  for (size_t r = first; r < positions.size(); ++r) {
    const int64_t wider = std::max<int64_t>(width, positions[r] + 1);
    if (rows > 0 && (rows + 1) * wider > score_count) break;
    width = wider;
    ++rows;
  }
  *stride = width;
  return rows;
}

namespace {

int NextGroup(const StepContext& step, int first, int64_t* stride) {
  const int64_t score_count = step.act.indexer.score_count;
  if (!step.positions.empty()) return ScoreGroup(step.positions, first, score_count, stride);
  *stride = step.keys;
  const int64_t fit = std::max<int64_t>(score_count / step.keys, 1);
  return static_cast<int>(std::min<int64_t>(fit, step.rows.rows - first));
}

}  // namespace

const int32_t* SelectKeys(const StepContext& step, const IndexerWeights& w,
                          const kernels::LayerCache& cache) {
  const ModelConfig& c = step.config;
  const auto& a = step.act.indexer;
  step.Linear(step.act.attention.q_latent, step.act.attention.q_latent8, w.wq_b, a.q);
  RotateAndSpread(step, a.q, c.index_n_heads);
  if (step.fp8) step.backend.Quantize({.x = a.q, .out = a.q8});
  HeadWeights(step, w);

  int64_t stride = 0;
  for (int first = 0, rows = 0; first < step.rows.rows; first += rows) {
    rows = NextGroup(step, first, &stride);
    const kernels::RowMap map = RowRange(step.rows, first, rows);
    step.backend.IndexerLogits({.q = step.fp8 ? kernels::Matrix{} : RowRange(a.q, first, rows),
                                .q8 = RowRange(a.q8, first, rows),
                                .weights = Floats(a.weights) + int64_t{first} * c.index_n_heads,
                                .heads = c.index_n_heads,
                                .cache = cache,
                                .rows = map,
                                .logits = a.scores,
                                .logits_stride = stride});
    step.backend.TopK({.logits = a.scores,
                       .logits_stride = stride,
                       .positions = map.positions,
                       .rows = rows,
                       .k = c.index_topk,
                       .indices = a.selected + int64_t{first} * c.index_topk});
  }
  return a.selected;
}

}  // namespace baleen::model
