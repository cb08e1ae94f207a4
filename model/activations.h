#pragma once

#include "kernels/tensor.h"
#include "model/config.h"
#include "model/forward.h"

namespace baleen::model {

// Every buffer of a forward pass, planned and placed once. "act" is the activations' dtype, f32 or
// bf16; rows are those of the batch unless a comment says otherwise. A Quantized is unset in
// kExact. Attention, feed-forward part and MTP input follow one another and share their memory.
struct Activations {
  // The residual stream is x + residual (3.1).
  kernels::Matrix x;         // [rows, hidden] act: output of the part before
  kernels::Matrix residual;  // [rows, hidden] act
  kernels::Matrix h;         // [rows, hidden] act: normalised input of the part
  kernels::Quantized h8;
  kernels::Matrix stream;      // [rows, hidden] f32: unrounded sum, between stages
  kernels::Matrix hidden;      // [rows, hidden] act: output of the final norm; last()
  kernels::Matrix mtp_hidden;  // [rows, hidden] act: output of the MTP module's norm; mtp

  struct Attention {
    kernels::Matrix q_latent;  // [rows, q_lora] act, normalised in place
    kernels::Quantized q_latent8;
    kernels::Matrix q;         // [rows, heads * (nope + rope)] act
    kernels::Matrix kv;        // [rows, kv_lora + rope] act, latent normalised, key roped in place
    kernels::Matrix absorbed;  // [rows, heads * kv_lora] act: q_nope W_UK
    kernels::Matrix mixed;     // [rows, heads * kv_lora] act: attention over latents
    kernels::Matrix out;       // [rows, heads * v] act
    kernels::Quantized out8;
  } attention;

  struct Indexer {
    kernels::Matrix q;  // [rows, index_heads * index_dim] act
    kernels::Quantized q8;
    kernels::Matrix k;            // [rows, index_dim] act
    kernels::Matrix weights;      // [rows, index_heads] f32
    float* scores = nullptr;      // [score_count]
    int64_t score_count = 0;      // at least max_context
    int32_t* selected = nullptr;  // [rows, index_topk]
  } indexer;

  struct FeedForward {
    kernels::Matrix gate_up;  // [rows, 2 * width] act; dense or shared expert
    kernels::Matrix mid;      // [rows, width] act
    kernels::Quantized mid8;
    kernels::Matrix router_logits;    // [rows, experts] f32
    int32_t* expert_ids = nullptr;    // [rows, topk]
    float* expert_weights = nullptr;  // [rows, topk]
    kernels::Matrix expert_out;       // [received rows * topk, hidden] act
  } ffn;

  struct MtpInput {
    kernels::Matrix embedding;  // [rows, hidden] act
    kernels::Matrix hidden;     // [rows, hidden] act: the gathered rows
    kernels::Matrix joined;     // [rows, 2 * hidden] act: both, normalised
  } mtp;

  kernels::Matrix head_in;      // [head rows, hidden] act; last() or mtp
  kernels::Matrix head_logits;  // [head rows, vocab] f32

  // The same with every per-row matrix cut to `rows`.
  Activations ForRows(int rows) const;
};

// Places every buffer from `base` on; with base == nullptr only the size is meaningful. Rows of
// other ranks that this shard's experts may receive: max_rows of each.
struct PlannedActivations {
  Activations activations;
  size_t bytes = 0;
};
PlannedActivations PlanActivations(const ModelConfig& config, const Shard& shard,
                                   const ForwardOptions& options, std::byte* base);

}  // namespace baleen::model
