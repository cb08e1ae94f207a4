#include "model/mla.h"

#include "model/indexer.h"
#include "model/matrix_views.h"

namespace baleen::model {
namespace {

// q_latent = norm(h W_qa);  q = q_latent W_qb, its last `rope` dimensions of each head rotated
void Queries(const StepContext& step, const AttentionWeights& w) {
  const ModelConfig& c = step.config;
  const auto& a = step.act.attention;
  step.Linear(step.act.h, step.act.h8, w.q_a, a.q_latent);
  step.backend.AddRmsNorm({.x = a.q_latent,
                           .weight = w.q_a_norm,
                           .out = a.q_latent,
                           .quantized = a.q_latent8,
                           .eps = c.rms_norm_eps});
  step.Linear(a.q_latent, a.q_latent8, w.q_b, a.q);
  step.backend.Rope({.x = a.q,
                     .heads = c.num_attention_heads,
                     .head_stride = c.qk_head_dim(),
                     .offset = c.qk_nope_head_dim,
                     .dims = c.qk_rope_head_dim,
                     .interleaved = true,
                     .positions = step.rows.positions,
                     .cos = step.rope_cos,
                     .sin = step.rope_sin});
}

// kv = h W_kva = [latent | key];  caches norm(latent) and the rotated key
void StoreLatents(const StepContext& step, const AttentionWeights& w,
                  const kernels::LayerCache& cache) {
  const ModelConfig& c = step.config;
  const auto& a = step.act.attention;
  const kernels::Matrix latent = ColumnRange(a.kv, 0, c.kv_lora_rank);
  const kernels::Matrix key = ColumnRange(a.kv, c.kv_lora_rank, c.qk_rope_head_dim);
  step.Linear(step.act.h, step.act.h8, w.kv_a, a.kv);
  step.backend.AddRmsNorm(
      {.x = latent, .weight = w.kv_a_norm, .out = latent, .eps = c.rms_norm_eps});
  step.backend.Rope({.x = key,
                     .heads = 1,
                     .head_stride = c.qk_rope_head_dim,
                     .offset = 0,
                     .dims = c.qk_rope_head_dim,
                     .interleaved = true,
                     .positions = step.rows.positions,
                     .cos = step.rope_cos,
                     .sin = step.rope_sin});
  step.backend.StoreLatent({.latent = latent, .rope = key, .cache = cache, .rows = step.rows});
}

// out = softmax(scale * [q_nope W_UK | q_rope] [latent | key]^T) latent W_UV^T, the absorbed form
void Attend(const StepContext& step, const AttentionWeights& w, const int32_t* selected,
            const kernels::LayerCache& cache) {
  const ModelConfig& c = step.config;
  const auto& a = step.act.attention;
  const int q_cols = c.num_attention_heads * c.qk_head_dim();
  step.backend.HeadLinear({.x = a.q,
                           .heads = c.num_attention_heads,
                           .x_head_stride = c.qk_head_dim(),
                           .w = w.w_uk.data,
                           .w_dtype = w.w_uk.dtype,
                           .out = c.kv_lora_rank,
                           .in = c.qk_nope_head_dim,
                           .y = a.absorbed});
  step.backend.SparseAttention(
      {.q = a.absorbed,
       .q_rope = ColumnRange(a.q, c.qk_nope_head_dim, q_cols - c.qk_nope_head_dim),
       .rope_head_stride = c.qk_head_dim(),
       .heads = c.num_attention_heads,
       .scale = step.attention_scale,
       .indices = selected,
       .topk = selected == nullptr ? 0 : c.index_topk,
       .cache = cache,
       .rows = step.rows,
       .out = a.mixed});
  step.backend.HeadLinear({.x = a.mixed,
                           .heads = c.num_attention_heads,
                           .x_head_stride = c.kv_lora_rank,
                           .w = w.w_uv.data,
                           .w_dtype = w.w_uv.dtype,
                           .out = c.v_head_dim,
                           .in = c.kv_lora_rank,
                           .y = a.out});
}

}  // namespace

const int32_t* Mla(const StepContext& step, const AttentionWeights& w,
                   const IndexerWeights& indexer, const kernels::LayerCache& cache) {
  Queries(step, w);
  StoreLatents(step, w, cache);
  const int32_t* selected = nullptr;
  if (step.config.has_indexer) {
    StoreIndexKeys(step, indexer, cache);
    if (step.keys > step.config.index_topk) selected = SelectKeys(step, indexer, cache);
  }
  Attend(step, w, selected, cache);

  const auto& a = step.act.attention;
  if (step.fp8) step.backend.Quantize({.x = a.out, .out = a.out8});
  step.Linear(a.out, a.out8, w.o, step.act.x);
  return selected;
}

}  // namespace baleen::model
