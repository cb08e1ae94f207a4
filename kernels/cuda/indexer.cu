// IndexerLogits (3.4) for fp8 keys: a page's 64 keys are the rows of a wgmma, the heads of one or
// two queries its 128 columns, and the 128 dimensions its four steps; ReLU, head weights and the
// sum over heads never leave the registers.
//
// A CTA has a group of neighbouring rows and a share of their keys. One warp lets the copy engine
// bring pages into a ring of shared memory, a page being one swizzled box of keys and one piece of
// scales; the warpgroups take what arrives. Rows of one sequence use each page together, so that a
// prefill chunk is bound by the tensor cores and not by L2; rows of different sequences are taken
// one sequence after the other. Every logit is computed by itself and in one order, whoever
// computes it, so the cut into groups and shares never changes a bit.
#include <algorithm>

#include "kernels/cuda/check.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/indexer/tile_map.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"

namespace baleen::kernels::cuda {
namespace {

using indexer::kTileRowBytes;
using indexer::MakeTileMap;

constexpr int kDim = kTileRowBytes;  // of a key and of a head's query
constexpr int kColumns = 128;        // of a tile of queries: rows x heads
constexpr int kWarpgroupThreads = 128;
constexpr int kWarpgroupWarps = kWarpgroupThreads / kWarpThreads;
constexpr int kPageBytes = kPageTokens * (kDim + int{sizeof(float)});  // keys and scales
constexpr int kTileBytes = kColumns * kDim;
constexpr int kStepBytes = 32;  // of a row that one wgmma multiplies

// kHeads: the model's, rounded up to a size that fits a tile; heads beyond the model's are zero.
// kCtas: resident at a time on a multiprocessor; kPages: a share that outweighs a CTA's start.
template <int kHeads_, int kWarpgroups_, int kStages_, int kCtas_, int kPages_>
struct Config {
  static constexpr int kHeads = kHeads_;
  static constexpr int kWarpgroups = kWarpgroups_;  // as many as tiles in a group
  static constexpr int kStages = kStages_;
  static constexpr int kCtas = kCtas_;
  static constexpr int kPages = kPages_;
  static constexpr int kTileRows = kColumns / kHeads;
  static constexpr int kGroupRows = kTileRows * kWarpgroups;
  static constexpr int kThreads = kWarpgroups * kWarpgroupThreads + kWarpThreads;
};
// Few rows: small groups, and several CTAs to hide each other's start.
template <int kHeads>
using Narrow = Config<kHeads, 1, 6, 3, 16>;
// Many rows: six of V3.2 share a page. Three warpgroups are what the registers hold without spills,
// and enough that two wait for the tensor cores while one sums.
template <int kHeads>
using Wide = Config<kHeads, 3, 16, 1, 64>;
constexpr int kWideRows = 64;  // from so many on; either is right for any rows

struct Args {
  const float* weights;  // [rows, heads]
  int heads;
  const std::byte* scales;  // of page 0
  size_t page_bytes;
  RowMap rows;
  float* logits;
  int64_t logits_stride;
  int busy_shares;  // as many shares of each group keep the device busy
};

template <typename C>
struct Shared {
  alignas(1024) uint8_t q[C::kWarpgroups][kTileBytes];
  alignas(1024) uint8_t keys[C::kStages][kPageTokens * kDim];
  alignas(16) float scales[C::kStages][kPageTokens];
  uint64_t q_full[C::kWarpgroups];
  uint64_t full[C::kStages];
  uint64_t empty[C::kStages];
  int32_t positions[C::kGroupRows];
  int32_t sequences[C::kGroupRows];
};

// Rows [begin, end) of the group, of one sequence, and this CTA's share of its pages.
struct Run {
  int begin;
  int end;
  int32_t sequence;
  int first_page;
  int end_page;
};

// A value that is the same in all lanes, in a form from which the compiler knows it.
__device__ int Uniform(int v) { return __shfl_sync(kAllLanes, v, 0); }

// The run that begins at row `begin` of the group's `count` rows. Its pages are dealt out to as
// many CTAs as keep the device busy, or to more where all have enough to do.
template <typename C>
__device__ Run NextRun(const Shared<C>& s, const Args& a, int begin, int count) {
  Run run = {begin, begin, s.sequences[begin], 0, 0};
  int keys = 0;
  for (; run.end < count && s.sequences[run.end] == run.sequence; ++run.end) {
    keys = max(keys, s.positions[run.end] + 1);
  }
  const int pages = (keys + kPageTokens - 1) / kPageTokens;
  const int wanted = max(a.busy_shares, (pages + C::kPages - 1) / C::kPages);
  const int shares = min(wanted, static_cast<int>(gridDim.y));
  const int share = static_cast<int>(blockIdx.y);
  if (share < shares) {
    run.first_page = Uniform(pages * share / shares);
    run.end_page = Uniform(pages * (share + 1) / shares);
  }
  run.begin = Uniform(run.begin);
  run.end = Uniform(run.end);
  return run;
}

template <typename C>
__device__ bool HasPages(const Shared<C>& s, const Args& a, int count) {
  for (int begin = 0; begin < count;) {
    const Run run = NextRun<C>(s, a, begin, count);
    if (run.first_page < run.end_page) return true;
    begin = run.end;
  }
  return false;
}

// Where the ring's next page is or comes.
template <int kStages>
struct RingPosition {
  int stage = 0;
  uint32_t parity = 0;

  __device__ void Advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// The loading warp: queries when a run needs them, then the run's pages. Lanes look up 32 page ids
// at once; the first lane waits and issues.
template <typename C>
__device__ void Load(Shared<C>& s, const Args& a, const CUtensorMap* q_map,
                     const CUtensorMap* key_map, int first_row, int count) {
  const int lane = threadIdx.x % kWarpThreads;
  RingPosition<C::kStages> at;
  int next_tile = 0;
  for (int begin = 0; begin < count;) {
    const Run run = NextRun<C>(s, a, begin, count);
    begin = run.end;
    if (run.first_page == run.end_page) continue;
    for (int t = max(next_tile, run.begin / C::kTileRows); t <= (run.end - 1) / C::kTileRows; ++t) {
      next_tile = t + 1;
      if (lane != 0) continue;
      ptx::MbarrierArriveExpectTx(&s.q_full[t], kTileBytes);
      ptx::TensorLoad3d(s.q[t], q_map, 0, 0, first_row + t * C::kTileRows, &s.q_full[t]);
    }
    const int32_t* table = a.rows.page_table + int64_t{run.sequence} * a.rows.page_table_stride;
    int32_t ids = 0;
    for (int page = run.first_page; page < run.end_page; ++page) {
      const int i = (page - run.first_page) % kWarpThreads;
      if (i == 0 && page + lane < run.end_page) ids = table[page + lane];
      const int32_t id = __shfl_sync(kAllLanes, ids, i);
      if (lane == 0) {
        ptx::MbarrierWait(&s.empty[at.stage], at.parity ^ 1);
        ptx::MbarrierArriveExpectTx(&s.full[at.stage], kPageBytes);
        ptx::TensorLoad3d(s.keys[at.stage], key_map, 0, 0, id, &s.full[at.stage]);
        ptx::BulkLoad(s.scales[at.stage], a.scales + size_t(id) * a.page_bytes, sizeof(s.scales[0]),
                      &s.full[at.stage]);
      }
      at.Advance();
    }
  }
}

// acc[keys x columns] = keys . queries
__device__ void Multiply(float (&acc)[64], const uint8_t* keys, const uint8_t* q) {
  const uint64_t a = ptx::WgmmaDescriptor128(keys);
  const uint64_t b = ptx::WgmmaDescriptor128(q);
  ptx::WgmmaFence();
#pragma unroll
  for (int step = 0; step < kDim / kStepBytes; ++step) {
    const uint64_t advance = step * (kStepBytes / 16);
    ptx::WgmmaM64N128K32E4m3(acc, a + advance, b + advance, step > 0);
  }
  ptx::WgmmaCommit();
}

// The weights of this lane's columns of a tile, as Weigh wants them; 0 for rows and heads that do
// not exist.
template <typename C>
__device__ void LoadWeights(const Args& a, int64_t row, float (&weights)[32]) {
  const int column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int j = 0; j < kColumns / 8; ++j) {
    const int64_t r = row + j / (C::kHeads / 8);
    const int head = j % (C::kHeads / 8) * 8;
    float2 w = {0, 0};
    if (r < a.rows.rows && head < a.heads) {
      w = *reinterpret_cast<const float2*>(a.weights + r * a.heads + head + column);
    }
    weights[2 * j] = w.x;
    weights[2 * j + 1] = w.y;
  }
}

// Twice the weighted sum over this lane's columns of one row of the tile, for one of its two keys.
// x + |x| is exactly 2 max(0, x) and an addition; a maximum would run at half the rate.
template <int kHeads>
__device__ float Weigh(const float (&acc)[64], const float (&weights)[32], int row, int half) {
  float sum = 0;
#pragma unroll
  for (int j = row * (kHeads / 8); j < (row + 1) * (kHeads / 8); ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float x = acc[4 * j + 2 * half + e];
      sum = fmaf(weights[2 * j + e], x + fabsf(x), sum);
    }
  }
  return sum;
}

// Sums over the four lanes that share keys l / 4 and l / 4 + 8. Of the results, lane l gets that of
// key l / 4 + 8 (l % 2) and of row l % 4 / 2 of the tile: each exchange halves what a lane keeps.
template <typename C>
__device__ float SumHeads(const float (&acc)[64], const float (&weights)[32]) {
  const bool upper_key = threadIdx.x % 2 != 0;
  const bool second_row = threadIdx.x % 4 / 2 != 0;
  float kept[C::kTileRows];
#pragma unroll
  for (int row = 0; row < C::kTileRows; ++row) {
    const float lower = Weigh<C::kHeads>(acc, weights, row, 0);
    const float upper = Weigh<C::kHeads>(acc, weights, row, 1);
    kept[row] =
        (upper_key ? upper : lower) + __shfl_xor_sync(kAllLanes, upper_key ? lower : upper, 1);
  }
  if constexpr (C::kTileRows == 1) {
    return kept[0] + __shfl_xor_sync(kAllLanes, kept[0], 2);
  } else {
    return (second_row ? kept[1] : kept[0]) +
           __shfl_xor_sync(kAllLanes, second_row ? kept[0] : kept[1], 2);
  }
}

// Hands the page back to the loading warp.
__device__ void Release(uint64_t* empty) {
  __syncwarp();
  if (threadIdx.x % kWarpThreads == 0) ptx::MbarrierArrive(empty);
}

// A warpgroup's part of a run. Where the run has fewer tiles than there are warpgroups, several
// take turns at the pages of one tile.
template <typename C>
__device__ void ScoreRun(Shared<C>& s, const Args& a, const Run& run, int64_t first_row,
                         RingPosition<C::kStages>& at) {
  const int first_tile = run.begin / C::kTileRows;
  const int tiles = (run.end - 1) / C::kTileRows - first_tile + 1;
  const int turns = C::kWarpgroups / tiles;
  const int warpgroup = Uniform(threadIdx.x / kWarpgroupThreads);
  const bool works = warpgroup / turns < tiles;
  const int tile = first_tile + (works ? warpgroup / turns : 0);

  // This lane stores the logits of one key of the page for one row.
  const int lane = threadIdx.x % kWarpThreads;
  const int key = threadIdx.x % kWarpgroupThreads / kWarpThreads * 16 + lane / 4 + lane % 2 * 8;
  const int row = tile * C::kTileRows + (C::kTileRows == 1 ? 0 : lane % 4 / 2);
  const bool stores = row >= run.begin && row < run.end && (C::kTileRows > 1 || lane % 4 < 2);
  const int first_position = run.first_page * kPageTokens + key;
  int visible = stores ? s.positions[row] + 1 - first_position : 0;  // from this page's key on
  float* logits = a.logits + (first_row + row) * a.logits_stride + first_position;
  const float* scales = s.scales[0] + key;

  float weights[32];
  LoadWeights<C>(a, first_row + tile * C::kTileRows, weights);
  if (works) ptx::MbarrierWait(&s.q_full[tile], 0);
  int next_page = works ? run.first_page + warpgroup % turns : run.end_page;
  for (int page = run.first_page; page < run.end_page; ++page) {
    ptx::MbarrierWait(&s.full[at.stage], at.parity);
    uint64_t* empty = &s.empty[at.stage];
    if (page == next_page) {
      next_page += turns;
      float acc[64];
      Multiply(acc, s.keys[at.stage], s.q[tile]);
      const float half_scale = 0.5f * scales[at.stage * kPageTokens];  // Weigh doubles
      ptx::WgmmaWait<0>();
      ptx::WgmmaPin(acc);
      Release(empty);
      const float sum = SumHeads<C>(acc, weights);
      if (visible > 0) *logits = sum * half_scale;
    } else {
      Release(empty);
    }
    visible -= kPageTokens;
    logits += kPageTokens;
    at.Advance();
  }
}

// Grid: (groups of rows, shares of their keys).
template <typename C>
__global__ __launch_bounds__(C::kThreads, C::kCtas) void IndexerLogitsKernel(
    const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap key_map,
    const Args a) {
  extern __shared__ __align__(1024) std::byte memory[];
  auto& s = *reinterpret_cast<Shared<C>*>(memory);
  // Last groups first: in a prompt's first chunk they have the most keys.
  const int first_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * C::kGroupRows;
  const int count = min(C::kGroupRows, a.rows.rows - first_row);
  const int thread = threadIdx.x;
  if (thread < count) {
    s.positions[thread] = a.rows.positions[first_row + thread];
    s.sequences[thread] = a.rows.sequences[first_row + thread];
  }
  if (thread == 0) {
    ptx::PrefetchTensorMap(&q_map);
    ptx::PrefetchTensorMap(&key_map);
    for (uint64_t& barrier : s.q_full) ptx::MbarrierInit(&barrier, 1);
    for (uint64_t& barrier : s.full) ptx::MbarrierInit(&barrier, 1);
    for (uint64_t& barrier : s.empty) {
      ptx::MbarrierInit(&barrier, C::kWarpgroups * kWarpgroupWarps);
    }
    ptx::FenceMbarrierInit();
  }
  __syncthreads();
  if (!HasPages<C>(s, a, count)) return;
  if (thread >= C::kWarpgroups * kWarpgroupThreads) {
    Load<C>(s, a, &q_map, &key_map, first_row, count);
    return;
  }
  RingPosition<C::kStages> at;
  for (int begin = 0; begin < count;) {
    const Run run = NextRun<C>(s, a, begin, count);
    if (run.first_page < run.end_page) ScoreRun<C>(s, a, run, first_row, at);
    begin = run.end;
  }
}

int Multiprocessors() {
  int device = 0;
  int count = 0;
  BALEEN_CUDA_CHECK(cudaGetDevice(&device));
  BALEEN_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// At least as many CTAs as run at once; more, for an even end, while each has enough to do.
template <typename C>
void Launch(const IndexerLogitsParams& p, cudaStream_t stream) {
  constexpr int kWaves = 16;
  constexpr uint64_t kMostPages = uint64_t{1} << 24;  // of any pool: the cache does not say
  const int slots = Multiprocessors() * C::kCtas;
  const int groups = (p.rows.rows + C::kGroupRows - 1) / C::kGroupRows;
  const int pages = static_cast<int>(PagesFor(p.logits_stride));
  const int busy_shares = std::max(1, slots / groups);
  const int even_shares =
      std::min((slots * kWaves + groups - 1) / groups, (pages + C::kPages - 1) / C::kPages);
  const int shares = std::min(pages, std::max(busy_shares, even_shares));

  const KvLayout& layout = p.cache.layout;
  const std::byte* layer = p.cache.layer(0);
  const CUtensorMap q_map = MakeTileMap({.data = p.q8.data,
                                         .y = uint64_t(p.heads),
                                         .z = uint64_t(p.rows.rows),
                                         .y_stride = kDim,
                                         .z_stride = uint64_t{kDim} * p.heads},
                                        C::kHeads, C::kTileRows);
  const CUtensorMap key_map = MakeTileMap({.data = layer + layout.IndexKeysOffset(),
                                           .y = kPageTokens,
                                           .z = kMostPages,
                                           .y_stride = kDim,
                                           .z_stride = p.cache.page_bytes},
                                          kPageTokens, 1);
  const Args args = {.weights = p.weights,
                     .heads = p.heads,
                     .scales = layer + layout.IndexScalesOffset(),
                     .page_bytes = p.cache.page_bytes,
                     .rows = p.rows,
                     .logits = p.logits,
                     .logits_stride = p.logits_stride,
                     .busy_shares = busy_shares};
  const auto kernel = IndexerLogitsKernel<C>;
  BALEEN_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared<C>)));
  kernel<<<dim3(groups, shares), C::kThreads, sizeof(Shared<C>), stream>>>(q_map, key_map, args);
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

template <int kHeads>
void LaunchFor(const IndexerLogitsParams& p, cudaStream_t stream) {
  if (p.rows.rows < kWideRows) {
    Launch<Narrow<kHeads>>(p, stream);
  } else {
    Launch<Wide<kHeads>>(p, stream);
  }
}

}  // namespace

void LaunchIndexerLogits(const IndexerLogitsParams& p, cudaStream_t stream) {
  if (p.rows.rows == 0) return;
  const KvLayout& layout = p.cache.layout;
  BALEEN_CHECK_MSG(layout.numerics == Numerics::kFp8 && p.q8.data != nullptr,
                   "the GPU computes in fp8");
  BALEEN_CHECK(layout.index_dim == kDim && p.q8.cols == p.heads * kDim);
  BALEEN_CHECK_MSG(p.heads > 0 && p.heads <= kColumns && p.heads % 8 == 0,
                   "index heads: a multiple of 8 up to 128");
  BALEEN_CHECK(p.q8.rows == p.rows.rows);
  // A page number times a number of shares fits 32 bits.
  BALEEN_CHECK_MSG(p.logits_stride > 0 && p.logits_stride <= int64_t{1} << 21,
                   "context beyond 2 M tokens");
  if (p.heads <= 64) {
    LaunchFor<64>(p, stream);
  } else {
    LaunchFor<128>(p, stream);
  }
}

}  // namespace baleen::kernels::cuda
