#pragma once

#include <cuda_bf16.h>

#include <cstddef>
#include <cstdint>

#include "common/kv_layout.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/sparse_attention/wgmma.cuh"

// What the parts of the sparse attention kernel share: sizes, parameters, shared memory.
namespace baleen::kernels::cuda::sparse_attention {

using Bf16 = __nv_bfloat16;

inline constexpr int kLora = 512;
inline constexpr int kRope = 64;
inline constexpr int kKeyDims = kLora + kRope;
inline constexpr int kRowBytes = 656;  // a cache row: e4m3 latent | f32 scales | bf16 rope
inline constexpr int kScalesOffset = kLora;
inline constexpr int kRopeOffset = kLora + kLora / kQuantGroup * 4;

inline constexpr int kTileHeads = 64;  // of a CTA: M of wgmma
inline constexpr int kTileKeys = 64;   // taken into the softmax together
inline constexpr int kStages = 2;      // key tiles in shared memory

// Two warpgroups of consumers and one of producers.
inline constexpr int kWarpgroupThreads = 128;
inline constexpr int kConsumers = 2;
inline constexpr int kConsumerThreads = kConsumers * kWarpgroupThreads;
inline constexpr int kConsumerWarps = kConsumerThreads / kWarpThreads;
inline constexpr int kProducerWarps = kWarpgroupThreads / kWarpThreads;
inline constexpr int kThreads = kConsumerThreads + kWarpgroupThreads;

// 65536 registers over 384 threads are 168 each at launch, and 2 * 184 + 136 = 3 * 168.
inline constexpr int kConsumerRegisters = 184;
inline constexpr int kProducerRegisters = 136;

// bf16 tiles are panels of 64 rows and 64 columns: 128 bytes a row, of whose eight 16-byte chunks
// chunk c of row r lies at c ^ r % 8, the 128-byte swizzle of wgmma.
inline constexpr int kPanelColumns = 64;
inline constexpr int kChunkColumns = 8;
inline constexpr int kPanelRowBytes = 128;
inline constexpr int kPanelBytes = 64 * kPanelRowBytes;
inline constexpr int kPanels = kKeyDims / kPanelColumns;
inline constexpr int kLoraPanels = kLora / kPanelColumns;
inline constexpr int kTileBytes = kPanels * kPanelBytes;

__device__ inline int SwizzledChunk(int row, int chunk) {
  return row * kPanelRowBytes + (chunk ^ row % 8) * 16;
}

// Rows of partial results are padded so that the eight rows of an accumulator fragment, 32 bytes of
// each, lie in different banks.
inline constexpr int kPartialStride = kLora + 8;

struct alignas(1024) SharedMemory {
  uint8_t query[kTileBytes];  // heads x [latent | rope]
  union {
    uint8_t keys[kStages][kTileBytes];  // keys x [latent | rope]; the latents are the values
    float partial[kTileHeads][kPartialStride];  // sum_s p[s] c[s], after the last tile
  };
  uint8_t weights[kPanelBytes];               // p: heads x keys
  float tile_max[kConsumers][kTileHeads];     // of a warpgroup's half of the keys
  float sums[kConsumers][kTileHeads];         // of p, likewise, over all tiles
  float2 totals[kTileHeads];                  // (largest scaled score, sum of p) of the CTA's keys
  float factors[kTileHeads];                  // of the partial results this CTA combines
  uint32_t present[kStages][kProducerWarps];  // bit l: KeyOfLane(l) of the warp exists
  uint64_t full[kStages];                     // mbarriers
  uint64_t empty[kStages];
};
static_assert(sizeof(SharedMemory) <= 227 * 1024);
static_assert(offsetof(SharedMemory, keys) % 1024 == 0);
static_assert(offsetof(SharedMemory, weights) % 1024 == 0);

// The kernel's parameters. CTA `split` of the cluster takes tiles split, split + splits, ... of its
// row's keys for 64 of its heads.
struct Args {
  const Bf16* q;
  int64_t q_stride;
  const Bf16* q_rope;
  int64_t q_rope_stride;
  int rope_head_stride;
  int heads;
  int splits;              // of a row's keys; the cluster's size
  float scale_log2;        // softmax is in powers of two
  const int32_t* indices;  // [rows, topk] or nullptr
  int topk;
  const std::byte* layer;  // this layer's part of page 0
  size_t page_bytes;
  const int32_t* positions;
  const int32_t* sequences;
  const int32_t* page_table;
  int page_table_stride;
  Bf16* out;
  int64_t out_stride;
};

// A CTA's share of the work.
struct Job {
  int64_t row;
  int64_t sequence;
  int first_head;
  int split;
  int tiles;  // that this CTA takes
  int keys;   // of the row, those named by -1 included
};

// Grid: (splits, head groups, rows).
__device__ inline Job JobOf(const Args& a) {
  const int64_t row = blockIdx.z;
  const int past = a.positions[row] + 1;
  Job job;
  job.row = row;
  job.sequence = a.sequences[row];
  job.first_head = blockIdx.y * kTileHeads;
  job.split = blockIdx.x;
  job.keys = a.indices != nullptr ? min(a.topk, past) : past;
  const int row_tiles = (job.keys + kTileKeys - 1) / kTileKeys;
  job.tiles = max(0, (row_tiles - job.split + a.splits - 1) / a.splits);
  return job;
}

// Which of a producer warp's sixteen keys lane `lane` follows from tile to tile, and the lower of
// the two lanes of a key.
__device__ inline int KeyOfLane(int lane) { return lane % 8 * 2 + lane / 16; }
__device__ inline int LaneOfKey(int key) { return key % 2 * 16 + key / 2; }

// Stages are used in turn, each use is a phase of its barriers.
__device__ inline int StageOf(int tile) { return tile % kStages; }
__device__ inline uint32_t ParityOf(int tile) { return tile / kStages % 2; }

}  // namespace baleen::kernels::cuda::sparse_attention
