#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/gemm/schedule.cuh"

// From the sums of a tile to y.
namespace baleen::kernels::cuda::gemm {

// Threads keep their sums where they are: a float4 holds d[4 j] .. d[4 j + 3] of one thread.
inline constexpr int kPartialThreads = kGroupThreads;

// Hands this chunk's sums over; true in the CTA that comes last, which has the sum of all chunks
// then, added in ascending order. A counter is zero again afterwards.
template <typename C>
__device__ bool AddChunks(const Problem& p, int item, int rows, bool* last,
                          float (&sums)[C::kSums]) {
  constexpr int kOctets = C::kRows / 8;  // of rows
  constexpr int kItemFloat4s = kOctets * kPartialThreads;
  const int thread = threadIdx.x % kGroupThreads;
  const int tile = item / p.chunks;
  float4* mine = p.partials + int64_t{item} * kItemFloat4s + thread;
#pragma unroll
  for (int j = 0; j < kOctets; ++j) {
    if (8 * j >= rows) break;
    __stcg(mine + j * kPartialThreads,
           make_float4(sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]));
  }
  __threadfence();
  ptx::BarrierSync(1, kGroupThreads);
  if (thread == 0) {
    *last = atomicAdd(p.counters + tile, 1) == p.chunks - 1;
    if (*last) p.counters[tile] = 0;
  }
  ptx::BarrierSync(1, kGroupThreads);
  if (!*last) return false;
  __threadfence();
  const float4* first = p.partials + int64_t{tile} * p.chunks * kItemFloat4s + thread;
#pragma unroll
  for (int j = 0; j < kOctets; ++j) {
    if (8 * j >= rows) break;
    float4 sum = __ldcg(first + j * kPartialThreads);
#pragma unroll 4
    for (int chunk = 1; chunk < p.chunks; ++chunk) {
      const float4 next = __ldcg(first + chunk * kItemFloat4s + j * kPartialThreads);
      sum.x += next.x;
      sum.y += next.y;
      sum.z += next.z;
      sum.w += next.w;
    }
    sums[4 * j] = sum.x;
    sums[4 * j + 1] = sum.y;
    sums[4 * j + 2] = sum.z;
    sums[4 * j + 3] = sum.w;
  }
  return true;
}

// Two sums side by side in a row of the accumulators, transposed: of the row of x that is lane / 4
// of eight, the values of accumulator rows 2 (lane % 4) and the next.
__device__ inline uint32_t TransposeSums(float a, float b) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(a, b);
  return ptx::TransposeB16(*reinterpret_cast<const uint32_t*>(&both));
}

// 2 * kWords consecutive bf16 outputs from `first` on.
template <int kWords>
__device__ void StoreBf16(const Problem& p, __nv_bfloat16* row, int first,
                          const uint32_t (&words)[kWords]) {
  if (p.y_vectors) {
    if (first >= p.out) return;
    if constexpr (kWords == 2) {
      *reinterpret_cast<uint2*>(row + first) = {words[0], words[1]};
    } else {
      static_assert(kWords == 4);
      *reinterpret_cast<uint4*>(row + first) = {words[0], words[1], words[2], words[3]};
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 2 * kWords; ++i) {
    if (first + i >= p.out) return;
    const uint32_t bits = words[i / 2] >> 16 * (i % 2);
    row[first + i] = __ushort_as_bfloat16(static_cast<unsigned short>(bits));
  }
}

// The first output of the calling warp: it has 16 * kParts consecutive ones (WeightSlot).
template <typename C>
__device__ int WarpOut(const Tile& tile, int group) {
  const int warp = threadIdx.x / kWarpThreads % 4;
  return tile.out_begin + (group * kGroupOut + warp * 16) * C::kParts;
}

// Whole warps: a quad of lanes has the warp's outputs of one row, 4 * kParts in each lane.
template <typename C>
__device__ void StoreBf16Tile(const Problem& p, const Tile& tile, int group,
                              const float (&sums)[C::kParts][C::kSums]) {
  const int lane = threadIdx.x % kWarpThreads;
  const int first = WarpOut<C>(tile, group) + lane % 4 * 4 * C::kParts;
#pragma unroll
  for (int j = 0; j < C::kRows / 8; ++j) {
    if (8 * j >= tile.rows) break;
    uint32_t words[2 * C::kParts];
#pragma unroll
    for (int part = 0; part < C::kParts; ++part) {
      words[2 * part] = TransposeSums(sums[part][4 * j], sums[part][4 * j + 1]);
      words[2 * part + 1] = TransposeSums(sums[part][4 * j + 2], sums[part][4 * j + 3]);
    }
    const int row = 8 * j + lane / 4;
    if (row < tile.rows) {
      auto* y = static_cast<__nv_bfloat16*>(p.y) + tile.y_offset +
                MappedRow(p.y_rows, tile.row_begin + row) * p.y_stride;
      StoreBf16(p, y, first, words);
    }
  }
}

// f32 results are few (router, head, index weights): they go out as they lie.
template <typename C>
__device__ void StoreF32Tile(const Problem& p, const Tile& tile, int group,
                             const float (&sums)[C::kParts][C::kSums]) {
  const int lane = threadIdx.x % kWarpThreads;
  const int row_of_d = lane / 4;
  const int first = WarpOut<C>(tile, group) + row_of_d / 2 * 4 * C::kParts + row_of_d % 2;
#pragma unroll
  for (int j = 0; j < C::kRows / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int row = 8 * j + lane % 4 * 2 + e;
      if (row >= tile.rows) continue;
      float* y = static_cast<float*>(p.y) + tile.y_offset +
                 MappedRow(p.y_rows, tile.row_begin + row) * p.y_stride;
#pragma unroll
      for (int part = 0; part < C::kParts; ++part) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int out = first + 4 * part + 2 * half;
          if (out < p.out) y[out] = sums[part][4 * j + 2 * half + e];
        }
      }
    }
  }
}

template <typename C>
__device__ void Store(const Problem& p, const Tile& tile, int group,
                      const float (&sums)[C::kParts][C::kSums]) {
  if (p.y_f32) {
    StoreF32Tile<C>(p, tile, group, sums);
  } else {
    StoreBf16Tile<C>(p, tile, group, sums);
  }
}

}  // namespace baleen::kernels::cuda::gemm
