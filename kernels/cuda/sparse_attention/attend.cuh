#pragma once

#include "kernels/cuda/sparse_attention/layout.cuh"

// The two consumer warpgroups. Of each tile warpgroup g computes the scores of keys 32 g to
// 32 g + 31 and their weights p, which meet in shared memory, and then sums p * c for its half of
// the latent's columns. While the sum of one tile runs the scores of the next queue behind it.
namespace baleen::kernels::cuda::sparse_attention {

inline constexpr int kGroupKeys = kTileKeys / kConsumers;
inline constexpr int kGroupPanels = kLoraPanels / kConsumers;  // of the sum's columns
inline constexpr int kScores = kGroupKeys / 2;                 // in a thread, of two heads
inline constexpr int kSums = kLora / kConsumers / 2;           // likewise
inline constexpr int kConsumerBarrier = 1;

// A thread's place in an accumulator: heads `head` and head + 8, columns 8 j + column and the next.
struct Fragment {
  int group;
  int head;
  int column;
};

// The group comes from lane 0, so that the compiler keeps what follows from it in uniform
// registers.
__device__ inline Fragment FragmentOf(int thread) {
  const int lane = thread % kWarpThreads;
  return {__shfl_sync(kAllLanes, thread / kWarpgroupThreads, 0),
          thread % kWarpgroupThreads / kWarpThreads * 16 + lane / 4, lane % 4 * 2};
}

// Of the thread's two heads; scores are scaled to powers of two.
struct RunningSoftmax {
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};  // of this thread's keys
};

__device__ inline void SyncConsumers() { ptx::BarrierSync(kConsumerBarrier, kConsumerThreads); }

__device__ inline float QuadMax(float v) {
  v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, 1));
  return fmaxf(v, __shfl_xor_sync(kAllLanes, v, 2));
}
__device__ inline float QuadSum(float v) {
  v += __shfl_xor_sync(kAllLanes, v, 1);
  return v + __shfl_xor_sync(kAllLanes, v, 2);
}

// Heads beyond the last are zeros.
__device__ inline void LoadQuery(const Args& a, const Job& job, SharedMemory& shared) {
  constexpr int kLoraChunks = kLora / kChunkColumns;
  constexpr int kChunks = kKeyDims / kChunkColumns;
  const Bf16* q = a.q + job.row * a.q_stride;
  const Bf16* q_rope = a.q_rope + job.row * a.q_rope_stride;
  const uint32_t query = ptx::SharedAddress(shared.query);
  for (int i = threadIdx.x; i < kTileHeads * kChunks; i += kConsumerThreads) {
    const int head = i / kChunks;
    const int chunk = i % kChunks;
    const int global_head = job.first_head + head;
    const bool exists = global_head < a.heads;
    const Bf16* from = q;
    if (exists) {
      from = chunk < kLoraChunks ? q + global_head * kLora + chunk * kChunkColumns
                                 : q_rope + global_head * a.rope_head_stride +
                                       (chunk - kLoraChunks) * kChunkColumns;
    }
    const int panel = chunk / (kPanelColumns / kChunkColumns);
    ptx::AsyncCopy16(
        query + panel * kPanelBytes + SwizzledChunk(head, chunk % (kPanelColumns / kChunkColumns)),
        from, exists);
  }
  ptx::AsyncCopyWaitAll();
  ptx::FenceProxyAsync();
  SyncConsumers();
}

// scores = q . k for 64 heads and this warpgroup's keys of the tile.
__device__ inline void IssueScores(float (&scores)[kScores], const SharedMemory& shared, int tile,
                                   int group) {
  const int stage = StageOf(tile);
  // Computed anew for every tile: 36 advanced descriptors would not fit beside the sums.
  const uint64_t query = ptx::Opaque(ptx::WgmmaDescriptor128(shared.query));
  const uint64_t keys =
      ptx::WgmmaDescriptor128(shared.keys[stage] + group * kGroupKeys * kPanelRowBytes);
  ptx::WgmmaPin(scores);
  ptx::WgmmaFence();
#pragma unroll
  for (int k = 0; k < kKeyDims / 16; ++k) {
    const int offset = k / 4 * kPanelBytes + k % 4 * 32;  // 16 columns are 32 bytes
    ptx::WgmmaM64N32K16Bf16(scores, ptx::WgmmaAdvance(query, offset),
                            ptx::WgmmaAdvance(keys, offset), k > 0);
  }
  ptx::WgmmaCommit();
}

// sums += p . c for 64 heads, all keys of the tile and this warpgroup's columns.
__device__ inline void IssueSums(float (&sums)[kSums], const SharedMemory& shared, int tile,
                                 int group) {
  const uint64_t weights = ptx::WgmmaDescriptor128(shared.weights);
  const uint64_t values = ptx::WgmmaDescriptorNMajor128(
      shared.keys[StageOf(tile)] + group * kGroupPanels * kPanelBytes, kPanelBytes);
  ptx::WgmmaPin(sums);
  ptx::WgmmaFence();
#pragma unroll
  for (int k = 0; k < kTileKeys / 16; ++k) {
    ptx::WgmmaM64N256K16Bf16NMajor(sums, ptx::WgmmaAdvance(weights, k * 32),
                                   ptx::WgmmaAdvance(values, k * 16 * kPanelRowBytes), true);
  }
  ptx::WgmmaCommit();
}

// Keys that do not exist get no weight. Bits of `present` are in the order of gather's lanes.
__device__ inline void MaskScores(float (&scores)[kScores], const SharedMemory& shared, int tile,
                                  const Fragment& at) {
  constexpr int kWarps = kProducerWarps / kConsumers;
  constexpr int kWarpScores = kScores / kWarps;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) {
    const uint32_t present = shared.present[StageOf(tile)][at.group * kWarps + warp];
    if (present == ~0u) continue;
#pragma unroll
    for (int i = 0; i < kWarpScores; ++i) {
      const int key = i / 4 * 8 + at.column + i % 2;
      if ((present >> LaneOfKey(key) & 1) == 0) scores[warp * kWarpScores + i] = -INFINITY;
    }
  }
}

// The largest score of each head over the whole tile, seen by all threads that hold the head.
__device__ inline void TileMax(const float (&scores)[kScores], SharedMemory& shared,
                               const Fragment& at, float (&max)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    max[r] = -INFINITY;
#pragma unroll
    for (int i = 2 * r; i < kScores; i += 4)
      max[r] = fmaxf(max[r], fmaxf(scores[i], scores[i + 1]));
    max[r] = QuadMax(max[r]);
    if (at.column == 0) shared.tile_max[at.group][at.head + 8 * r] = max[r];
  }
  SyncConsumers();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    max[r] = fmaxf(max[r], shared.tile_max[1 - at.group][at.head + 8 * r]);
  }
}

// Turns scores into weights 2^(score - max) in shared memory, as bf16. Returns by how much earlier
// sums shrink. Their sum is of the unrounded weights.
__device__ inline void WriteWeights(const float (&scores)[kScores], const Args& a,
                                    const float (&tile_max)[2], RunningSoftmax& softmax,
                                    SharedMemory& shared, const Fragment& at, float (&shrink)[2]) {
  const uint32_t weights = ptx::SharedAddress(shared.weights);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float max = fmaxf(softmax.max[r], tile_max[r] * a.scale_log2);
    const float base = max == -INFINITY ? 0 : max;  // no key yet: weights are 2^-inf = 0
    shrink[r] = ptx::Exp2(softmax.max[r] - base);
    softmax.max[r] = max;
    float sum = 0;
#pragma unroll
    for (int i = 2 * r; i < kScores; i += 4) {
      const float first = ptx::Exp2(fmaf(scores[i], a.scale_log2, -base));
      const float second = ptx::Exp2(fmaf(scores[i + 1], a.scale_log2, -base));
      sum += first + second;
      const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
      const int chunk = at.group * (kGroupKeys / kChunkColumns) + i / 4;
      ptx::StoreShared4(weights + SwizzledChunk(at.head + 8 * r, chunk) + at.column * 2,
                        reinterpret_cast<const uint32_t&>(pair));
    }
    softmax.sum[r] = fmaf(softmax.sum[r], shrink[r], sum);
  }
}

// Multiplying by 1 changes nothing, so whether a warp skips it does not show in the bits.
__device__ inline void ShrinkSums(float (&sums)[kSums], const float (&shrink)[2]) {
  if (!__any_sync(kAllLanes, shrink[0] != 1 || shrink[1] != 1)) return;
#pragma unroll
  for (int i = 0; i < kSums; ++i) sums[i] *= shrink[i / 2 % 2];
}

__device__ inline void WaitForTile(SharedMemory& shared, int tile) {
  ptx::MbarrierWait(&shared.full[StageOf(tile)], ParityOf(tile));
}

// From the scores of a tile to their weights in shared memory, with `sums` shrunk to match.
__device__ inline void Weigh(float (&scores)[kScores], const Args& a, SharedMemory& shared,
                             int tile, const Fragment& at, RunningSoftmax& softmax,
                             float (&sums)[kSums]) {
  float max[2], shrink[2];
  MaskScores(scores, shared, tile, at);
  TileMax(scores, shared, at, max);
  WriteWeights(scores, a, max, softmax, shared, at, shrink);
  ShrinkSums(sums, shrink);
  ptx::FenceProxyAsync();
  SyncConsumers();
}

// All tiles of the job, at least one.
__device__ inline void AttendTiles(const Args& a, const Job& job, SharedMemory& shared,
                                   const Fragment& at, RunningSoftmax& softmax,
                                   float (&sums)[kSums]) {
  float scores[kScores] = {};
  WaitForTile(shared, 0);
  IssueScores(scores, shared, 0, at.group);
  ptx::WgmmaWait<0>();
  ptx::WgmmaPin(scores);
  for (int tile = 0; tile + 1 < job.tiles; ++tile) {
    Weigh(scores, a, shared, tile, at, softmax, sums);
    IssueSums(sums, shared, tile, at.group);
    WaitForTile(shared, tile + 1);
    IssueScores(scores, shared, tile + 1, at.group);
    ptx::WgmmaWait<1>();  // the sums: the stage is free while the scores run
    if (threadIdx.x % kWarpThreads == 0) ptx::MbarrierArrive(&shared.empty[StageOf(tile)]);
    ptx::WgmmaWait<0>();
    ptx::WgmmaPin(sums);
    ptx::WgmmaPin(scores);
  }
  Weigh(scores, a, shared, job.tiles - 1, at, softmax, sums);
  IssueSums(sums, shared, job.tiles - 1, at.group);
  ptx::WgmmaWait<0>();
  ptx::WgmmaPin(sums);
}

// Leaves the CTA's totals and, in the place of the key tiles, its sums.
__device__ inline void WritePartial(const RunningSoftmax& softmax, const float (&sums)[kSums],
                                    SharedMemory& shared, const Fragment& at) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float sum = QuadSum(softmax.sum[r]);
    if (at.column == 0) shared.sums[at.group][at.head + 8 * r] = sum;
  }
  SyncConsumers();  // and both warpgroups have read the last tile
  const int first_column = at.group * (kLora / kConsumers) + at.column;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int head = at.head + 8 * r;
    if (at.group == 0 && at.column == 0) {
      shared.totals[head] = {softmax.max[r], shared.sums[0][head] + shared.sums[1][head]};
    }
#pragma unroll
    for (int i = 2 * r; i < kSums; i += 4) {
      *reinterpret_cast<float2*>(&shared.partial[head][first_column + i / 4 * 8]) = {sums[i],
                                                                                     sums[i + 1]};
    }
  }
}

// The keys of the job; a job without tiles leaves totals that say so.
__device__ inline void Attend(const Args& a, const Job& job, SharedMemory& shared) {
  if (job.tiles == 0) {
    if (threadIdx.x < kTileHeads) shared.totals[threadIdx.x] = {-INFINITY, 0};
    return;
  }
  const Fragment at = FragmentOf(threadIdx.x);
  RunningSoftmax softmax;
  float sums[kSums] = {};
  LoadQuery(a, job, shared);
  AttendTiles(a, job, shared, at, softmax, sums);
  WritePartial(softmax, sums, shared, at);
}

}  // namespace baleen::kernels::cuda::sparse_attention
