#pragma once

#include <cstdint>

#include "common/check.h"
#include "kernels/cuda/gemm/chunks.h"
#include "kernels/cuda/gemm/schedule.cuh"
#include "kernels/tensor.h"

// What the launchers fill in of a Problem.
namespace baleen::kernels::cuda::gemm {

inline bool Aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// W is [out, in] of `type`; K is cut into chunks if `cut`.
inline void SetShape(int out, int in, DType type, bool cut, Problem& p) {
  BALEEN_CHECK(out > 0 && in > 0);
  const int element = static_cast<int>(DTypeBytes(type));
  BALEEN_CHECK_MSG(int64_t{in} * element % kCopyBytes == 0, "rows of 16-byte pieces");
  BALEEN_CHECK(int64_t{in} * element <= INT_MAX - kBlockBytes);
  BALEEN_CHECK_MSG(type != DType::kF8E4M3 || in % kQuantGroup == 0, "whole groups of 128");
  const int k_blocks = CeilDiv(in, kBlockBytes / element);
  const ChunkPlan chunks = cut ? PlanChunks(out, k_blocks) : ChunkPlan{k_blocks, 1};
  p.out = out;
  p.k_blocks = k_blocks;
  p.chunk_blocks = chunks.blocks;
  p.chunks = chunks.count;
  p.w_stride = int64_t{in} * element;
}

// bf16 or f32. Each W's outputs begin at a multiple of `out` in a row.
inline void SetOutput(const Matrix& y, int out, Problem& p) {
  BALEEN_CHECK_MSG(y.dtype == DType::kF32 || y.dtype == DType::kBf16, "results are f32 or bf16");
  p.y = y.data;
  p.y_stride = y.stride;
  p.y_f32 = y.dtype == DType::kF32;
  p.y_vectors = Aligned16(y.data) && y.stride % 8 == 0 && out % 8 == 0;
}

// bf16 rows, read 16 bytes at a time.
inline void SetBf16Input(const Matrix& x, Problem& p) {
  BALEEN_CHECK_MSG(x.dtype == DType::kBf16, "the GPU computes with bf16 activations");
  BALEEN_CHECK_MSG(x.stride % 8 == 0 && Aligned16(x.data), "rows of 16-byte pieces");
  p.x_stride = x.stride * static_cast<int64_t>(sizeof(uint16_t));
}

}  // namespace baleen::kernels::cuda::gemm
