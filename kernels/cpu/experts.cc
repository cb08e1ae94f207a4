// Experts (3.6): pairs (row, j) are grouped by expert with a counting sort; each expert's rows are
// gathered in blocks, and a block goes through gate_up, SiLU and down on one thread.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/rows.h"

namespace baleen::kernels::cpu {
namespace {

constexpr int kBlockRows = 48;

// Rows of one expert that one thread takes: pairs [begin, begin + count) of the sorted list.
struct ExpertBlock {
  int expert;  // local
  int begin;
  int count;
};

struct SortedPairs {
  int32_t* pairs;       // [rows * topk] r * topk + j, by expert, then ascending
  ExpertBlock* blocks;  // [block_count]
  int block_count;
};

SortedPairs SortByExpert(const ExpertsParams& p, ScratchBuffer& buffer) {
  const int total = p.x.rows * p.topk;
  // Pairs, then one offset an expert, then the blocks.
  const int most_blocks = total / kBlockRows + std::min(p.experts, total);
  int32_t* pairs = buffer.Get<int32_t>(size_t(total) + p.experts + 1 + size_t(3) * most_blocks);
  int32_t* offsets = pairs + total;
  auto* blocks = reinterpret_cast<ExpertBlock*>(offsets + p.experts + 1);
  std::fill(offsets, offsets + p.experts + 1, 0);
  const auto local = [&](int pair) { return p.ids[pair] - p.first_expert; };
  const auto mine = [&](int pair) {
    return p.ids[pair] >= 0 && local(pair) >= 0 && local(pair) < p.experts;
  };
  for (int i = 0; i < total; ++i) {
    if (mine(i)) ++offsets[local(i) + 1];
  }
  int block_count = 0;
  for (int e = 0; e < p.experts; ++e) {
    const int count = offsets[e + 1];
    for (int b = 0; b < count; b += kBlockRows) {
      blocks[block_count++] = {e, offsets[e] + b, std::min(kBlockRows, count - b)};
    }
    offsets[e + 1] += offsets[e];
  }
  for (int i = 0; i < total; ++i) {
    if (mine(i)) pairs[offsets[local(i)]++] = i;
  }
  return {pairs, blocks, block_count};
}

void ReadInput(const ExpertsParams& p, const Weight& w, const int32_t* pairs, int count, float* x) {
  const int dim = p.x.cols;
  const bool quantized = w.fp8_input && p.xq.data != nullptr;
  for (int i = 0; i < count; ++i) {
    const int64_t row = pairs[i] / p.topk;
    float* out = x + int64_t{i} * dim;
    if (quantized) {
      DequantizeRow(p.xq, row, out);
    } else if (const float* in = ReadSpan(p.x, row, 0, dim, out); in != out) {
      std::memcpy(out, in, dim * sizeof(float));
    }
  }
}

void RunBlock(const ExpertsParams& p, const ExpertBlock& block, const int32_t* pairs,
              Scratch& scratch) {
  const Weight& gate_up = p.gate_up[block.expert];
  const Weight& down = p.down[block.expert];
  const int dim = p.x.cols;
  const int width = down.in;
  const bool bf16 = p.out.dtype == DType::kBf16;
  float* x = scratch.input.Get<float>(int64_t{block.count} * dim);
  float* m = scratch.middle.Get<float>(int64_t{block.count} * 2 * width);
  float* y = scratch.output.Get<float>(int64_t{block.count} * dim);
  ReadInput(p, gate_up, pairs, block.count, x);
  simd::MultiplyTransposed(x, dim, block.count, static_cast<const float*>(gate_up.data), dim,
                           2 * width, dim, m, 2 * width);
  for (int i = 0; i < block.count; ++i) {
    float* row = m + int64_t{i} * 2 * width;
    if (bf16) simd::RoundToBf16(row, 2 * width);
    simd::SiluMul(row, row + width, width, row);
    if (bf16) simd::RoundToBf16(row, width);
    if (down.fp8_input && p.xq.data != nullptr) QuantizeDequantize(row, width);
  }
  simd::MultiplyTransposed(m, 2 * width, block.count, static_cast<const float*>(down.data), width,
                           dim, width, y, dim);
  for (int i = 0; i < block.count; ++i) WriteRow(y + int64_t{i} * dim, p.out, pairs[i]);
}

}  // namespace

void CpuBackend::Experts(const ExpertsParams& p) {
  if (p.x.rows == 0 || p.experts == 0) return;
  const int dim = p.x.cols;
  const int width = p.down[0].in;
  for (int e = 0; e < p.experts; ++e) {
    BALEEN_CHECK(p.gate_up[e].dtype == DType::kF32 && p.down[e].dtype == DType::kF32);
    BALEEN_CHECK(p.gate_up[e].in == dim && p.gate_up[e].out == 2 * width);
    BALEEN_CHECK(p.down[e].in == width && p.down[e].out == dim);
  }
  BALEEN_CHECK(p.out.cols == dim && p.out.rows == p.x.rows * p.topk);
  if (p.xq.data != nullptr) CheckQuantized(p.xq, p.x.rows, dim);
  const SortedPairs sorted = SortByExpert(p, pairs_);
  int64_t pairs = 0;
  for (int b = 0; b < sorted.block_count; ++b) pairs += sorted.blocks[b].count;
  pool_.ParallelFor(sorted.block_count, pairs * 3 * dim * width, [&](int worker, int64_t item) {
    const ExpertBlock& block = sorted.blocks[item];
    RunBlock(p, block, sorted.pairs + block.begin, scratch_[worker]);
  });
}

}  // namespace baleen::kernels::cpu
