#pragma once

#include "kernels/cuda/gemm/schedule.cuh"

// The producer warpgroup: copies of 16 bytes from global memory to the swizzled stages.
namespace baleen::kernels::cuda::gemm {

// Where output `v` of a tile lies among the tile's rows of W. Instead of keeping their order, the
// outputs are dealt out so that the values which a thread holds of one row of x after the
// epilogue's transposition are 4 * kParts consecutive outputs (epilogue.cuh). With v written in
// bits,
//   v    = [group][warp : 2][quad : 2][part][half][pair]   (no part bit where kParts is 1)
//   slot = [group][part][warp : 2][half][quad : 2][pair]
// where slot's last four bits are the row of a warp's accumulators.
template <int kParts>
constexpr int WeightSlot(int v) {
  constexpr int kGroup = kGroupOut * kParts;
  constexpr int kWarp = 16 * kParts;
  const int pair = v % 2;
  const int half = v / 2 % 2;
  const int part = v / 4 % kParts;
  const int quad = v / (4 * kParts) % 4;
  const int warp = v / kWarp % 4;
  return v / kGroup * kGroup + part * kGroupOut + warp * 16 + half * 8 + quad * 2 + pair;
}

// A thread's part of the copies of one tile: piece `threadIdx.x % 8` of rows threadIdx.x / 8 + 16 i
// of both operands, and one scale of each.
template <typename C>
class Source {
 public:
  __device__ Source(const Problem& p, const Tile& tile)
      : w_(tile.w + (tile.out_begin + FirstRow()) * p.w_stride + Piece() * kCopyBytes),
        w_pass_(kPassRows * p.w_stride),
        w_rows_(p.out - tile.out_begin - FirstRow()),
        left_(static_cast<int>(p.w_stride) - Piece() * kCopyBytes) {
#pragma unroll
    for (int i = 0; i < kInputPasses; ++i) {
      const int row = FirstRow() + i * kPassRows;
      x_[i] = row < tile.rows ? tile.x + MappedRow(p.x_rows, tile.row_begin + row) * p.x_stride +
                                    Piece() * kCopyBytes
                              : nullptr;
    }
    if constexpr (C::kScaled) {
      const int thread = threadIdx.x;
      if (thread < tile.rows) {
        x_scale_ = tile.x_scales + MappedRow(p.x_rows, tile.row_begin + thread) * p.k_blocks;
      }
      const int block = tile.out_begin / kQuantGroup + thread;
      if (thread < C::kScaleBlocks && block * kQuantGroup < p.out) {
        w_scale_ = tile.w_scales + int64_t{block} * p.k_blocks;
      }
    }
  }

  // Rows beyond the tile's stay what they are: they touch only sums that nobody stores. Beyond the
  // end of K both operands are zero.
  template <typename Shared>
  __device__ void Load(Shared& shared, int stage, int block) const {
    const int k = block * kBlockBytes;
    const bool present = k < left_;
    LoadWeights(ptx::SharedAddress(shared.weights[stage]), k, present);
    const uint32_t inputs =
        ptx::SharedAddress(shared.inputs[stage]) + SwizzledOffset(FirstRow(), Piece());
#pragma unroll
    for (int i = 0; i < kInputPasses; ++i) {
      if (x_[i] == nullptr) continue;
      ptx::AsyncCopy16(inputs + i * kPassRows * kBlockBytes, x_[i] + k, present);
    }
    if constexpr (C::kScaled) LoadScales(shared, stage, block);
  }

 private:
  static constexpr int kWeightPasses = C::kOut / kPassRows;
  static constexpr int kInputPasses = C::kRows / kPassRows;

  __device__ static int Piece() { return threadIdx.x % kRowCopies; }
  __device__ static int FirstRow() { return threadIdx.x / kRowCopies; }

  // The slot of a row is the sum of those of the first row and of the pass, which have no bits in
  // common; so their parts of the swizzle can be applied one after the other.
  __device__ void LoadWeights(uint32_t weights, int k, bool present) const {
    const uint32_t first = SwizzledOffset(WeightSlot<C::kParts>(FirstRow()), Piece());
    const uint8_t* w = w_ + k;
#pragma unroll
    for (int i = 0; i < kWeightPasses; ++i) {
      const int slot = WeightSlot<C::kParts>(i * kPassRows);
      const uint32_t to = weights + (first ^ slot % 8 * kCopyBytes) + slot * kBlockBytes;
      if (i * kPassRows < w_rows_) ptx::AsyncCopy16(to, w, present);
      w += w_pass_;
    }
  }

  template <typename Shared>
  __device__ void LoadScales(Shared& shared, int stage, int block) const {
    const int thread = threadIdx.x;
    if (x_scale_ != nullptr) {
      ptx::AsyncCopy4(ptx::SharedAddress(&shared.row_scales[stage][thread]), x_scale_ + block);
    }
    if (w_scale_ != nullptr) {
      ptx::AsyncCopy4(ptx::SharedAddress(&shared.weight_scales[stage][thread]), w_scale_ + block);
    }
  }

  const uint8_t* const w_;          // the thread's piece of its first row
  const int64_t w_pass_;            // bytes
  const int w_rows_;                // from its first one to the end of W
  const int left_;                  // bytes of K from its piece on
  const uint8_t* x_[kInputPasses];  // of each row; nullptr: none
  const float* x_scale_ = nullptr;
  const float* w_scale_ = nullptr;
};

template <typename C, typename Schedule, typename Shared>
__device__ void Produce(const Problem& p, const Schedule& schedule, Shared& shared) {
  Ring<C> ring;
  const int items = schedule.Items(shared.schedule);
  for (int item = blockIdx.x; item < items; item += gridDim.x) {
    const Tile tile = schedule.template At<C>(p, shared.schedule, item);
    const Source<C> source(p, tile);
    for (int block = tile.block_begin; block < tile.block_end; ++block) {
      ptx::MbarrierWait(&shared.empty[ring.stage], ring.parity ^ 1);
      source.Load(shared, ring.stage, block);
      ptx::AsyncCopyArrive(&shared.full[ring.stage]);
      ring.Advance();
    }
  }
  ptx::AsyncCopyWaitAll();  // no copy outlives its thread
}

}  // namespace baleen::kernels::cuda::gemm
