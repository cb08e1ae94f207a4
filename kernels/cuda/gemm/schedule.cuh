#pragma once

#include <climits>
#include <cstdint>

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/gemm/chunks.h"
#include "kernels/cuda/gemm/config.cuh"

// What is multiplied, and in which order CTAs take its tiles.
namespace baleen::kernels::cuda::gemm {

// y = x W^T for one or more W of one shape.
struct Problem {
  int out = 0;
  int k_blocks = 0;
  int chunk_blocks = 0;
  int chunks = 0;
  int64_t w_stride = 0;  // bytes of K: W's rows are dense
  int64_t x_stride = 0;  // bytes from row to row
  void* y = nullptr;
  int64_t y_stride = 0;    // elements
  bool y_f32 = false;      // else bf16
  bool y_vectors = false;  // bf16 rows can be stored 16 bytes at a time
  // Row r of the schedule is row x_rows[r] of x and row y_rows[r] of y; nullptr: row r.
  const int32_t* x_rows = nullptr;
  const int32_t* y_rows = nullptr;
  // kSplit: [items][rows / 8][128 threads] of four sums, and a counter for each tile.
  float4* partials = nullptr;
  int32_t* counters = nullptr;
};

__device__ inline int64_t MappedRow(const int32_t* map, int row) {
  return map == nullptr ? row : map[row];
}

// One work item.
struct Tile {
  const uint8_t* w;       // [out, in]
  const float* w_scales;  // [ceil(out / 128), k_blocks]
  const uint8_t* x;
  const float* x_scales;  // [rows of x, k_blocks]
  int64_t y_offset;       // elements
  int out_begin;
  int row_begin;
  int rows;
  int block_begin;  // of K
  int block_end;
};

// Row tiles are taken together in groups, for each of which the CTAs walk through the outputs:
// those that run at the same time share rows of x and of W in the second-level cache.
struct TileOrder {
  static constexpr int kGroupTiles = 16;
  int row_tile;
  int out_tile;

  __device__ TileOrder(int index, int row_tiles, int out_tiles) {
    const int first = index / (kGroupTiles * out_tiles) * kGroupTiles;
    const int tiles = min(kGroupTiles, row_tiles - first);
    const int inside = index - first * out_tiles;
    row_tile = first + inside % tiles;
    out_tile = inside / tiles;
  }
};

// `batches` products of the same shape, each a step further on in all operands.
struct StridedSchedule {
  struct Shared {};

  const uint8_t* w = nullptr;
  int64_t w_step = 0;  // bytes
  const float* w_scales = nullptr;
  const uint8_t* x = nullptr;
  int64_t x_step = 0;  // bytes
  const float* x_scales = nullptr;
  int64_t y_step = 0;  // elements
  int rows = 0;
  int row_tiles = 0;
  int out_tiles = 0;
  int items = 0;

  __device__ void Prepare(Shared&) const {}
  __device__ int Items(const Shared&) const { return items; }

  // Chunks of a tile are neighbours.
  template <typename C>
  __device__ Tile At(const Problem& p, const Shared&, int item) const {
    constexpr bool kSplit = C::kChunks == Chunks::kSplit;
    const int index = kSplit ? item / p.chunks : item;
    const int chunk = kSplit ? item - index * p.chunks : 0;
    const int batch_tiles = row_tiles * out_tiles;
    const int batch = index / batch_tiles;
    const TileOrder at(index - batch * batch_tiles, row_tiles, out_tiles);
    const int row_begin = at.row_tile * C::kRows;
    const int block_begin = chunk * p.chunk_blocks;
    return {.w = w + batch * w_step,
            .w_scales = w_scales,
            .x = x + batch * x_step,
            .x_scales = x_scales,
            .y_offset = batch * y_step,
            .out_begin = at.out_tile * C::kOut,
            .row_begin = row_begin,
            .rows = min(C::kRows, rows - row_begin),
            .block_begin = block_begin,
            .block_end = kSplit ? min(p.k_blocks, block_begin + p.chunk_blocks) : p.k_blocks};
  }
};

// One W for each group of rows: rows [offsets[g], offsets[g + 1]) of the schedule multiply w[g].
// Only groups of least_rows to most_rows rows are computed, so that two launches can share the
// groups out by size. How many rows a group has is known on the device only.
struct GroupedSchedule {
  static constexpr int kMaxGroups = 256;
  struct Shared {
    int first_tile[kMaxGroups + 1];  // row tiles before the group
  };

  const uint8_t* w[kMaxGroups];
  const float* w_scales[kMaxGroups];
  const uint8_t* x = nullptr;
  const float* x_scales = nullptr;
  const int32_t* offsets = nullptr;  // [groups + 1]
  int groups = 0;
  int least_rows = 1;
  int most_rows = INT_MAX;
  int out_tiles = 0;
  int tile_rows = 0;

  __device__ int RowTiles(int group) const {
    if (group >= groups) return 0;
    const int rows = offsets[group + 1] - offsets[group];
    return rows < least_rows || rows > most_rows ? 0 : (rows + tile_rows - 1) / tile_rows;
  }

  // The first warp adds up the tiles: eight groups a lane, then the lanes.
  __device__ void Prepare(Shared& shared) const {
    constexpr int kLaneGroups = kMaxGroups / kWarpThreads;
    if (threadIdx.x >= kWarpThreads) return;
    const int lane = threadIdx.x;
    int before[kLaneGroups];
    int sum = 0;
#pragma unroll
    for (int i = 0; i < kLaneGroups; ++i) {
      before[i] = sum;
      sum += RowTiles(lane * kLaneGroups + i);
    }
    int through = sum;  // of this lane and those below
#pragma unroll
    for (int d = 1; d < kWarpThreads; d *= 2) {
      const int lower = __shfl_up_sync(kAllLanes, through, d);
      if (lane >= d) through += lower;
    }
#pragma unroll
    for (int i = 0; i < kLaneGroups; ++i) {
      shared.first_tile[lane * kLaneGroups + i] = through - sum + before[i];
    }
    if (lane == kWarpThreads - 1) shared.first_tile[kMaxGroups] = through;
  }
  __device__ int Items(const Shared& shared) const {
    return shared.first_tile[kMaxGroups] * out_tiles;
  }

  // Groups in ascending order.
  template <typename C>
  __device__ Tile At(const Problem& p, const Shared& shared, int item) const {
    const int row_tile = item / out_tiles;
    int group = 0;  // the last that begins at or before row_tile: it has tiles
#pragma unroll
    for (int step = kMaxGroups / 2; step > 0; step /= 2) {
      if (shared.first_tile[group + step] <= row_tile) group += step;
    }
    const int first = shared.first_tile[group];
    const TileOrder at(item - first * out_tiles, shared.first_tile[group + 1] - first, out_tiles);
    const int row_begin = offsets[group] + at.row_tile * C::kRows;
    return {.w = w[group],
            .w_scales = w_scales[group],
            .x = x,
            .x_scales = x_scales,
            .y_offset = 0,
            .out_begin = at.out_tile * C::kOut,
            .row_begin = row_begin,
            .rows = min(C::kRows, offsets[group + 1] - row_begin),
            .block_begin = 0,
            .block_end = p.k_blocks};
  }
};

}  // namespace baleen::kernels::cuda::gemm
