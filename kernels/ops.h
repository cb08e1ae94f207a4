#pragma once

#include "kernels/tensor.h"

// The operations of one forward pass, in the order it uses them. Each struct is the whole input of
// one Backend member of the same name. Common rules:
//   * rows == 0 is legal and does nothing;
//   * activations are f32 (Numerics::kExact) or bf16 (kFp8), the same in all operands of an op
//     unless a field says otherwise; arithmetic is fp32 or better inside, one rounding at the end;
//   * no output may overlap an input unless the op says so.
// Section numbers are of docs/model.md.
namespace baleen::kernels {

// out[r] = table[ids[r]]
struct EmbedParams {
  Matrix table;        // [vocab, dim]; f32 (kDequantized) or bf16
  const int32_t* ids;  // [rows], each in [0, vocab)
  Matrix out;          // [rows, dim] activations
};

// s = x + residual;  residual_out = s;  out = weight * s * rsqrt(mean(s^2) + eps)   (3.0)
// The norm uses the unrounded s. Without a residual s = x; without out only the sum is stored.
struct AddRmsNormParams {
  Matrix x;             // [rows, dim] activations or f32
  Matrix residual;      // [rows, dim] or data == nullptr
  Matrix residual_out;  // [rows, dim] activations or f32, or data == nullptr; may be x or residual
  const float* weight;  // [dim] f32
  Matrix out;           // [rows, dim] activations, or data == nullptr; may be x
  Quantized quantized;  // also out in fp8, from the rounded out; data == nullptr: not wanted
  float eps;
};

// out = quantised x: amax floor 1e-4, scale rounded up to a power of two, RNE   (4.1)
struct QuantizeParams {
  Matrix x;  // [rows, cols], cols a multiple of 128
  Quantized out;
};

// y = x W^T. When w.fp8_input and xq.data are set, x is ignored and xq is multiplied, one f32
// promotion per 128 of k (4.3).
struct LinearParams {
  Matrix x;      // [rows, in] activations
  Quantized xq;  // [rows, in] or data == nullptr
  Weight w;      // [out, in]
  Matrix y;      // [rows, out] activations, or f32 (router, head, indexer weights)
};

// Rotates `dims` elements from `offset` of each head in place.   (3.2)
//   interleaved: pairs (x[2j], x[2j+1]) (MLA);  else: pairs (x[j], x[j + dims/2]) (indexer)
struct RopeParams {
  Matrix x;  // [rows, heads * head_stride] activations, in place
  int heads;
  int head_stride;  // elements
  int offset;
  int dims;
  bool interleaved;
  const int32_t* positions;  // [rows]
  const float* cos;          // [max_positions, dims / 2]
  const float* sin;
};

// out = (x - mean) * rsqrt(var + eps) * weight + bias, over cols   (3.4)
struct LayerNormParams {
  Matrix x;
  const float* weight;  // [cols]
  const float* bias;
  Matrix out;  // may be x
  float eps;
};

// Sylvester-ordered Walsh-Hadamard transform of every 128 consecutive elements, times 128^-0.5.
struct HadamardParams {
  Matrix x;  // [rows, heads * 128], in place
};

// Writes each row's latent and roped key to its page; kFp8 quantises the latent (5.2).
struct StoreLatentParams {
  Matrix latent;  // [rows, kv_lora]
  Matrix rope;    // [rows, rope]
  LayerCache cache;
  RowMap rows;
};

// Writes each row's index key to its page; kFp8 quantises it with one scale (5.3).
struct StoreIndexKeysParams {
  Matrix keys;  // [rows, index_dim]
  LayerCache cache;
  RowMap rows;
};

// logits[r, s] = iks[s] * sum_h weights[r, h] * max(0, q[r, h] . k[s])  for s <= positions[r] (3.4)
// Columns above positions[r] are not written. In kFp8 `q` is quantised and its scales are folded
// into `weights` by the caller (ScaleIndexWeights), in kExact `q.x` is used and iks is 1.
struct IndexerLogitsParams {
  Matrix q;              // [rows, heads * index_dim] f32 (kExact), or data == nullptr
  Quantized q8;          // [rows, heads * index_dim] (kFp8), or data == nullptr
  const float* weights;  // [rows, heads], dense
  int heads;
  LayerCache cache;
  RowMap rows;
  float* logits;  // [rows, logits_stride]
  int64_t logits_stride;
};

// weights[r, h] *= factor * (q8 scale of (r, h), or 1 without q8)   (3.4)
struct ScaleIndexWeightsParams {
  float* weights;  // [rows, heads], dense, in place
  int rows;
  int heads;
  const float* q_scales;  // [rows, heads] or nullptr
  float factor;
};

// The min(k, positions[r] + 1) positions with the largest logits; of equal ones the lower position
// wins. indices[r] is ascending and filled up with -1.
struct TopKParams {
  const float* logits;  // [rows, logits_stride]; only columns <= positions[r] are read
  int64_t logits_stride;
  const int32_t* positions;  // [rows]
  int rows;
  int k;
  int32_t* indices;  // [rows, k]
};

// y[r, h] = x[r, h] W[h]^T: absorbing W_UK into q, and W_UV after attention   (3.5)
struct HeadLinearParams {
  Matrix x;  // [rows, heads * x_head_stride]; the first `in` elements of each head are read
  int heads;
  int x_head_stride;
  const void* w;  // [heads, out, in], dense; f32 (kDequantized) or bf16
  DType w_dtype;
  int out;
  int in;
  Matrix y;  // [rows, heads * out]
};

// Attention of each row over the keys named by `indices`, or over all keys <= positions[r] when
// indices is nullptr:   (3.5, absorbed)
//   a = softmax_s(scale * (q[r,h] . c[s] + q_rope[r,h] . k_rope[s]));  out[r,h] = sum_s a[s] c[s]
struct SparseAttentionParams {
  Matrix q;       // [rows, heads * kv_lora]
  Matrix q_rope;  // [rows, heads * rope_head_stride]; the first `rope` of each head
  int rope_head_stride;
  int heads;
  float scale;
  const int32_t* indices;  // [rows, topk] positions in the row's sequence, -1: none; or nullptr
  int topk;
  LayerCache cache;
  RowMap rows;
  Matrix out;  // [rows, heads * kv_lora]
};

// Sigmoid gate with group-limited, bias-corrected choice   (3.7). Ties: the lower expert wins.
struct GateParams {
  const float* logits;  // [rows, experts], dense
  const float* bias;    // [experts], used only for choosing
  int rows;
  int experts;
  int groups;
  int topk_groups;
  int topk;
  bool normalize;                      // weights sum to 1 before `scale`
  float scale;                         // routed_scaling_factor
  int32_t* ids;                        // [rows, topk], ascending in each row
  float* weights;                      // [rows, topk], unbiased
  const int32_t* sequences = nullptr;  // [rows] as in RowMap, or nullptr
  int32_t empty_sequence = -1;         // its rows get ids -1 and weights 0
};

// out = silu(gate) * up, where x = [gate | up]   (3.6)
struct SiluMulParams {
  Matrix x;             // [rows, 2 * width]
  Matrix out;           // [rows, width]
  Quantized quantized;  // also out in fp8; data == nullptr: not wanted
};

// SwiGLU experts of one process. Pair (r, j) is computed when ids[r * topk + j] is in
// [first_expert, first_expert + experts); out row r * topk + j of the others is not written.
struct ExpertsParams {
  Matrix x;            // [rows, dim] activations
  Quantized xq;        // [rows, dim] in kFp8, or data == nullptr
  const int32_t* ids;  // [rows, topk] global expert ids; -1: none
  int topk;
  int first_expert;
  int experts;
  const Weight* gate_up;  // [experts] of [2 * width, dim]; host array
  const Weight* down;     // [experts] of [dim, width]; host array
  Matrix out;             // [rows * topk, dim] activations
};

// y[r] = sum_j weights[r, j] * expert_out[r * topk + j] + shared[r], summed in f32 in the order of
// j.
struct CombineParams {
  Matrix expert_out;     // [rows * topk, dim]
  const float* weights;  // [rows, topk], dense
  int topk;
  Matrix shared;  // [rows, dim]
  Matrix y;       // [rows, dim]; may be shared
};

// out[r] = x[index[r]]: rows for the head, or for MTP's hidden.
struct GatherRowsParams {
  Matrix x;
  const int32_t* index;  // [out.rows]
  Matrix out;            // same dtype and cols as x
};

// out[r] = [a[r] | b[r]]
struct ConcatParams {
  Matrix a;
  Matrix b;
  Matrix out;  // [rows, a.cols + b.cols]
};

// How one row's token is chosen; model/sampling_params.h says what the fields mean.
struct SamplingRow {
  uint64_t seed = 0;
  int32_t position = 0;    // of the chosen token in its sequence: the counter of the random numbers
  int32_t forced = -1;     // this token instead of a choice, for its log-probability; no edits
  int32_t first_edit = 0;  // of SampleParams::edits
  int32_t edits = 0;
  int32_t drafts = 0;         // rows of this sequence before this one in its verify step
  int32_t top_logprobs = -1;  // -1: no log-probabilities; else 0 .. kMaxTopLogprobs
  int32_t top_k = 0;          // 0: all
  float temperature = 0;      // 0: greedy
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float frequency_penalty = 0;
  float presence_penalty = 0;
};

// What is done to one token's logit, the same for all rows of a sequence's verify step but for the
// drafts before the row, which count as generated. A sequence's edits name different tokens, all
// below `limit`.
struct LogitEdit {
  int32_t token = 0;
  float bias = 0;           // added first
  int32_t generated = 0;    // times it was generated before the step
  uint16_t drafted = 0;     // bit d: draft d is this token
  uint8_t in_prompt = 0;    // counts for the repetition penalty
  uint8_t masked_rows = 0;  // rows with fewer drafts before them cannot choose it (min_new_tokens)
};

inline constexpr int kMaxTopLogprobs = 20;

// What SampleParams::tokens holds where no token could be chosen.
inline constexpr int32_t kBrokenLogit = -1;  // NaN or +inf among the logits
inline constexpr int32_t kNothingLeft = -2;  // no logit above -inf
inline constexpr int32_t kOverflow = -3;     // penalties made the largest logit infinite

// One token for each row of logits (docs/shapes.md). In this order: ids
// without a token masked; log-probabilities of what is left; edits (bias, repetition penalty if
// in_prompt or generated, frequency and presence penalty if generated, masked_rows); greedy:
// argmax, ties to the lower id. Otherwise weights exp((logit - max) / temperature), min_p relative
// to the largest, then top_k, then top_p (the smallest set whose mass, of what is left, reaches
// top_p; ties to the lower id), then the inverse of the cumulative sum in ascending id order at one
// uniform number. All sums are of integers (sampling_math.h), so that every backend chooses the
// same token.
struct SampleParams {
  Matrix logits;  // [rows, >= limit] f32; ids in `missing` become -inf, else as they were
  int limit = 0;  // ids from here on have no token
  const int32_t* missing = nullptr;  // [missing_count] ids below `limit` without a token
  int missing_count = 0;
  const SamplingRow* rows = nullptr;  // [rows], or nullptr: all greedy
  const LogitEdit* edits = nullptr;
  int32_t* tokens = nullptr;  // [rows], or one of the values above
  // Written where the row wants them and has a token.
  float* logprobs = nullptr;      // [rows] of the token
  int32_t* top_tokens = nullptr;  // [rows, kMaxTopLogprobs] descending, ties: lower id; -1: no more
  float* top_logprobs = nullptr;  // [rows, kMaxTopLogprobs]
};

// After verification (3.8): row s * per_sequence is sequence s's newest token, the rows behind it
// its drafts. Row j + 1 is accepted when row j is, holds a token, and is what row j chose.
struct AcceptDraftsParams {
  const int32_t* tokens;  // [sequences * per_sequence] of the rows
  const int32_t* chosen;  // [sequences * per_sequence], of Sample
  RowMap rows;
  int sequences;
  int per_sequence;      // 1 + drafts
  int32_t* next_tokens;  // [sequences * per_sequence]: chosen, or 0 where nothing was
  int32_t* last_rows;    // [sequences]: the last accepted row
  // [sequences] each: the token chosen there and its position, with which the sequence goes on.
  int32_t* newest_tokens;
  int32_t* newest_positions;
};

// Rows of a verify step for sequences that go on from a step whose results the host has not seen.
// Where follows[s] >= 0, the rows of sequence s become the newest token of sequence follows[s] of
// that step and the drafts made for it, empty where the sequence has no slot; others stay.
struct FollowRowsParams {
  const int32_t* follows;           // [sequences]
  const int32_t* newest_tokens;     // by sequence of the step before, of AcceptDrafts
  const int32_t* newest_positions;  // likewise
  const int32_t* drafts;            // [per_sequence - 1, drafts_stride], likewise, of Sample
  int drafts_stride;
  const int32_t* slots;  // [sequences]: positions that have a page
  int sequences;
  int per_sequence;
  int32_t empty_sequence;
  int32_t* tokens;  // [sequences * per_sequence] each
  int32_t* positions;
  int32_t* row_sequences;
  SamplingRow* sampling;  // [sequences * per_sequence]: only `position` is written
};

// The row that makes a further draft of each sequence: it holds the draft before at the position
// `ahead` behind the last accepted row, and is empty where the sequence has no slot there.
struct DraftRowsParams {
  const int32_t* drafts;     // [sequences], of Sample
  const int32_t* last_rows;  // [sequences], of AcceptDrafts
  RowMap rows;               // the verify rows
  const int32_t* slots;      // [sequences]: positions that have a page
  int sequences;
  int ahead;  // 1 for the second draft
  int32_t* tokens;
  int32_t* positions;
  int32_t* row_sequences;  // [sequences] each
};

}  // namespace baleen::kernels
