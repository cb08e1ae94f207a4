// SparseAttention (3.5, absorbed): a row's keys are taken kPageTokens at a time in the order of the
// list; softmax is kept running, so the scratch does not grow with the context. All heads of a row
// share the keys: scores are one product of heads by keys, the output another.
#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/cpu/cache_rows.h"
#include "kernels/cpu/cpu_backend.h"

namespace baleen::kernels::cpu {
namespace {

constexpr int kTileKeys = kPageTokens;

// The scratch of one row's attention.
struct RowState {
  float* q;            // [heads, kv_lora + rope]
  float* out;          // [heads, kv_lora], not yet divided by sum
  float* scores;       // [heads, kTileKeys]
  float* largest;      // [heads]
  float* sum;          // [heads]
  float* decoded;      // [kTileKeys, kv_lora + rope], kFp8
  const float** keys;  // [kTileKeys]
};

RowState StateFor(const SparseAttentionParams& p, Scratch& scratch) {
  const int64_t lora = p.cache.layout.kv_lora;
  const int64_t dim = lora + p.cache.layout.rope;
  RowState s;
  s.q = scratch.input.Get<float>(p.heads * dim);
  s.out = scratch.output.Get<float>(p.heads * lora);
  s.scores = scratch.scores.Get<float>(int64_t{p.heads} * (kTileKeys + 2));
  s.largest = s.scores + int64_t{p.heads} * kTileKeys;
  s.sum = s.largest + p.heads;
  s.decoded = scratch.keys.Get<float>(kTileKeys * dim);
  s.keys = scratch.pointers.Get<const float*>(kTileKeys);
  return s;
}

void ReadQuery(const SparseAttentionParams& p, int64_t r, const RowState& s) {
  const int lora = p.cache.layout.kv_lora;
  const int rope = p.cache.layout.rope;
  for (int h = 0; h < p.heads; ++h) {
    float* q = s.q + int64_t{h} * (lora + rope);
    const float* part = ReadSpan(p.q, r, int64_t{h} * lora, lora, q);
    if (part != q) std::memcpy(q, part, lora * sizeof(float));
    part = ReadSpan(p.q_rope, r, int64_t{h} * p.rope_head_stride, rope, q + lora);
    if (part != q + lora) std::memcpy(q + lora, part, rope * sizeof(float));
  }
}

// Takes `count` keys, named by s.keys, into the running softmax and sums.
void AddKeys(const SparseAttentionParams& p, int count, const RowState& s) {
  const int lora = p.cache.layout.kv_lora;
  const int dim = lora + p.cache.layout.rope;
  simd::MultiplyTransposed(s.q, dim, p.heads, s.keys, count, dim, s.scores, kTileKeys);
  for (int h = 0; h < p.heads; ++h) {
    float* scores = s.scores + int64_t{h} * kTileKeys;
    simd::Scale(p.scale, scores, count);
    const float largest = std::max(s.largest[h], simd::Max(scores, count));
    if (largest > s.largest[h] && s.sum[h] > 0) {
      float shrink = s.largest[h];
      simd::ExpAndSum(largest, &shrink, 1);
      s.sum[h] *= shrink;
      simd::Scale(shrink, s.out + int64_t{h} * lora, lora);
    }
    s.largest[h] = largest;
    s.sum[h] += simd::ExpAndSum(largest, scores, count);
  }
  simd::MultiplyAccumulate(s.scores, kTileKeys, p.heads, s.keys, count, lora, s.out, lora);
}

void AttendRow(const SparseAttentionParams& p, int64_t r, Scratch& scratch) {
  const int lora = p.cache.layout.kv_lora;
  const int dim = lora + p.cache.layout.rope;
  const RowState s = StateFor(p, scratch);
  ReadQuery(p, r, s);
  std::fill(s.largest, s.largest + p.heads, -std::numeric_limits<float>::infinity());
  std::fill(s.sum, s.sum + p.heads, 0.0f);
  std::memset(s.out, 0, sizeof(float) * p.heads * lora);

  const int32_t* indices = p.indices != nullptr ? p.indices + r * p.topk : nullptr;
  const int listed = indices != nullptr ? p.topk : p.rows.positions[r] + 1;
  int count = 0;
  for (int i = 0; i < listed; ++i) {
    const int32_t position = indices != nullptr ? indices[i] : i;
    if (position >= 0) {
      const TokenSlot slot = SlotOf(p.cache, p.rows, p.rows.sequences[r], position);
      s.keys[count] = ReadLatent(p.cache, slot, s.decoded + int64_t{count} * dim);
      ++count;
    }
    if (count == kTileKeys || (i + 1 == listed && count > 0)) {
      AddKeys(p, count, s);
      count = 0;
    }
  }
  for (int h = 0; h < p.heads; ++h) {
    float* out = s.out + int64_t{h} * lora;
    simd::Scale(s.sum[h] > 0 ? 1.0f / s.sum[h] : 0.0f, out, lora);
    WriteSpan(out, p.out, r, int64_t{h} * lora, lora);
  }
}

}  // namespace

void CpuBackend::SparseAttention(const SparseAttentionParams& p) {
  const int lora = p.cache.layout.kv_lora;
  const int rope = p.cache.layout.rope;
  BALEEN_CHECK(p.q.cols == p.heads * lora && p.out.cols == p.heads * lora);
  BALEEN_CHECK(rope <= p.rope_head_stride);
  int64_t keys = 0;
  for (int r = 0; r < p.rows.rows; ++r) {
    keys +=
        p.indices != nullptr ? std::min(p.topk, p.rows.positions[r] + 1) : p.rows.positions[r] + 1;
  }
  const int64_t macs = keys * p.heads * (2 * lora + rope);
  pool_.ParallelFor(p.rows.rows, macs, [&](int worker, int64_t r) {
    if (p.rows.sequences[r] != p.rows.empty_sequence) AttendRow(p, r, scratch_[worker]);
  });
}

}  // namespace baleen::kernels::cpu
