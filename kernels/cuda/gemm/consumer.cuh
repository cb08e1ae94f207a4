#pragma once

#include "kernels/cuda/gemm/epilogue.cuh"
#include "kernels/cuda/gemm/schedule.cuh"
#include "kernels/cuda/gemm/wgmma.cuh"

// The consumer warpgroups: products of the stages, sums over K.
namespace baleen::kernels::cuda::gemm {

// Sums of a thread, one array for each block of 64 outputs; their places are those of Wgmma's d.
template <typename C>
using Sums = float[C::kParts][C::kSums];

template <typename C>
__device__ void Clear(Sums<C>& sums) {
#pragma unroll
  for (int part = 0; part < C::kParts; ++part) {
#pragma unroll
    for (int i = 0; i < C::kSums; ++i) sums[part][i] = 0;
  }
}

// d (+)= 128 bytes of K of 64 outputs and the tile's rows; waits for the result.
template <typename C>
__device__ void MultiplyBlock(const uint8_t* weights, const uint8_t* inputs, bool accumulate,
                              float (&d)[C::kSums]) {
  const uint64_t a = ptx::WgmmaDescriptor128(weights);
  const uint64_t b = ptx::WgmmaDescriptor128(inputs);
  ptx::WgmmaPin(d);
  ptx::WgmmaFence();
#pragma unroll
  for (int k = 0; k < kBlockBytes / kInstructionK; ++k) {
    const int step = k * kInstructionK / 16;  // as the descriptor counts
    Wgmma<C::kType, C::kRows>(d, a + step, b + step, accumulate || k > 0);
  }
  ptx::WgmmaCommit();
  ptx::WgmmaWait<0>();
  ptx::WgmmaPin(d);
}

// The tensor core keeps few bits of an fp8 sum over long K: each 128 of K are summed apart and
// taken into the fp32 sums with the scales of row and block (4.3).
template <typename C>
__device__ void Promote(const float (&products)[C::kSums], const float* row_scales,
                        float weight_scale, float (&sums)[C::kSums]) {
  const int column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int j = 0; j < C::kRows / 8; ++j) {
    const float2 scales = *reinterpret_cast<const float2*>(row_scales + 8 * j + column);
    const float first = scales.x * weight_scale;
    const float second = scales.y * weight_scale;
    sums[4 * j] = fmaf(products[4 * j], first, sums[4 * j]);
    sums[4 * j + 1] = fmaf(products[4 * j + 1], second, sums[4 * j + 1]);
    sums[4 * j + 2] = fmaf(products[4 * j + 2], first, sums[4 * j + 2]);
    sums[4 * j + 3] = fmaf(products[4 * j + 3], second, sums[4 * j + 3]);
  }
}

template <typename C, typename Shared>
__device__ void AddStage(const Shared& shared, int stage, int group, Sums<C>& sums) {
  const uint8_t* weights = shared.weights[stage] + group * C::kParts * kGroupOut * kBlockBytes;
#pragma unroll
  for (int part = 0; part < C::kParts; ++part) {
    const uint8_t* part_weights = weights + part * kGroupOut * kBlockBytes;
    if constexpr (C::kScaled) {
      float products[C::kSums];
      MultiplyBlock<C>(part_weights, shared.inputs[stage], /*accumulate=*/false, products);
      const int scale_block = group * C::kParts * kGroupOut / kQuantGroup;
      Promote<C>(products, shared.row_scales[stage], shared.weight_scales[stage][scale_block],
                 sums[part]);
    } else {
      MultiplyBlock<C>(part_weights, shared.inputs[stage], /*accumulate=*/true, sums[part]);
    }
  }
}

// sums += blocks [begin, end) of K.
template <typename C, typename Shared>
__device__ void AddBlocks(Shared& shared, Ring<C>& ring, int begin, int end, int group,
                          Sums<C>& sums) {
  for (int block = begin; block < end; ++block) {
    ptx::MbarrierWait(&shared.full[ring.stage], ring.parity);
    ptx::FenceProxyAsync();  // the copies were not the async proxy's, wgmma's reads are
    AddStage<C>(shared, ring.stage, group, sums);
    __syncwarp();
    if (threadIdx.x % kWarpThreads == 0) ptx::MbarrierArrive(&shared.empty[ring.stage]);
    ring.Advance();
  }
}

// total (+)= sums
template <typename C>
__device__ void Fold(const Sums<C>& sums, bool first, Sums<C>& total) {
#pragma unroll
  for (int part = 0; part < C::kParts; ++part) {
#pragma unroll
    for (int i = 0; i < C::kSums; ++i) {
      total[part][i] = first ? sums[part][i] : total[part][i] + sums[part][i];
    }
  }
}

template <typename C, typename Shared>
__device__ void SumTile(const Problem& p, const Tile& tile, Shared& shared, Ring<C>& ring,
                        int group, Sums<C>& total) {
  if constexpr (C::kChunks != Chunks::kFold) {
    Clear<C>(total);
    AddBlocks<C>(shared, ring, tile.block_begin, tile.block_end, group, total);
  } else {
    for (int begin = 0; begin < p.k_blocks; begin += p.chunk_blocks) {
      Sums<C> sums;
      Clear<C>(sums);
      AddBlocks<C>(shared, ring, begin, min(p.k_blocks, begin + p.chunk_blocks), group, sums);
      Fold<C>(sums, begin == 0, total);
    }
  }
}

template <typename C, typename Schedule, typename Shared>
__device__ void Consume(const Problem& p, const Schedule& schedule, Shared& shared) {
  // Shuffled so that the compiler knows it to be the same in the whole warp.
  const int group = __shfl_sync(kAllLanes, threadIdx.x / kGroupThreads, 0) - 1;
  Ring<C> ring;
  const int items = schedule.Items(shared.schedule);
  for (int item = blockIdx.x; item < items; item += gridDim.x) {
    const Tile tile = schedule.template At<C>(p, shared.schedule, item);
    Sums<C> sums;
    SumTile<C>(p, tile, shared, ring, group, sums);
    if constexpr (C::kChunks == Chunks::kSplit) {
      if (p.chunks > 1 && !AddChunks<C>(p, item, tile.rows, &shared.adds_chunks, sums[0])) continue;
    }
    Store<C>(p, tile, group, sums);
  }
}

}  // namespace baleen::kernels::cuda::gemm
