#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

// The canonical cut of K, which decides the order of every sum. It depends on the shape of W alone.
namespace baleen::kernels::cuda::gemm {

// Work items of 64 outputs that fill an H100 or H200: two CTAs on each of 132 SMs.
inline constexpr int kFillingItems = 264;
inline constexpr int kOutTile = 64;
// From so many tiles on W is not cut: it keeps most SMs busy anyway, and at many rows a tile of
// twice the size, which has no registers for chunks, can take it.
inline constexpr int kUncutTiles = 96;
inline constexpr int kLeastChunkBlocks = 4;  // of 128 bytes of K: a shorter chunk is all latency
// At more rows than this, chunks are folded by one CTA instead of being split over several.
inline constexpr int kMostSplitRows = 256;

constexpr int CeilDiv(int a, int b) { return (a + b - 1) / b; }

struct ChunkPlan {
  int blocks = 0;  // of 128 bytes of K, in each chunk but the last
  int count = 0;
};

constexpr ChunkPlan PlanChunks(int out, int k_blocks) {
  const int tiles = CeilDiv(out, kOutTile);
  if (tiles >= kUncutTiles) return {k_blocks, 1};
  const int wanted = std::clamp(k_blocks / kLeastChunkBlocks, 1, kFillingItems / tiles);
  const int blocks = CeilDiv(k_blocks, wanted);
  return {blocks, CeilDiv(k_blocks, blocks)};
}

// Rows of one tile, where chunks are split.
constexpr int SplitTileRows(int rows) { return rows <= 16 ? 16 : rows <= 64 ? 64 : 128; }

// Partial sums, in f32, of the largest product of at most `rows` rows that is split.
constexpr size_t MostSplitBytes(int rows) {
  const int split_rows = std::min(rows, kMostSplitRows);
  const int tile = SplitTileRows(split_rows);
  return size_t{kFillingItems} * kOutTile * (size_t(CeilDiv(split_rows, tile)) * tile) *
         sizeof(float);
}

static_assert(PlanChunks(7168, 128).count == 1);
static_assert(PlanChunks(4096, 56).count == 4);
static_assert(PlanChunks(1536, 56).blocks == 6 && PlanChunks(1536, 56).count == 10);
static_assert(PlanChunks(128, 56).count == 14);

}  // namespace baleen::kernels::cuda::gemm
