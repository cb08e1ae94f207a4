// Experts (3.6): pairs (r, j) are sorted by expert on the device, then gate and up, SiLU and down
// run over the sorted pairs. Only the device knows how many pairs each expert has; grids are
// bounded by the most there can be, and CTAs stop at what there is.
#include "kernels/cuda/gemm/kernel.cuh"
#include "kernels/cuda/gemm/setup.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/packs.cuh"

namespace baleen::kernels::cuda {
namespace {

using Bf16 = __nv_bfloat16;
using gemm::CeilDiv;
using gemm::Chunks;
using gemm::GroupedSchedule;
using gemm::Problem;

constexpr int kSortThreads = 1024;
constexpr int kSortWarps = kSortThreads / kWarpThreads;
constexpr int kLaneIds = 4;  // a lane reads at a time
constexpr int kWarpIds = kLaneIds * kWarpThreads;
constexpr int kSiluBlocks = 8;  // an SM

struct SortArgs {
  const int32_t* ids;  // [pairs]
  int pairs;
  int topk;
  int first_expert;
  int experts;
  int32_t* offsets;  // [experts + 1] of each expert's pairs in the lists
  int32_t* pair_of;  // r * topk + j, by expert, then ascending
  int32_t* row_of;   // r
};

// The experts of pairs at .. at + 3, from 0 on; a number that no expert has where there is none.
__device__ void ReadExperts(const SortArgs& a, int at, unsigned (&expert)[kLaneIds]) {
  int4 ids = {-1, -1, -1, -1};
  if (at + kLaneIds <= a.pairs) {
    ids = *reinterpret_cast<const int4*>(a.ids + at);
  } else {
    if (at < a.pairs) ids.x = a.ids[at];
    if (at + 1 < a.pairs) ids.y = a.ids[at + 1];
    if (at + 2 < a.pairs) ids.z = a.ids[at + 2];
  }
  const unsigned first = a.first_expert;
  expert[0] = ids.x - first;
  expert[1] = ids.y - first;
  expert[2] = ids.z - first;
  expert[3] = ids.w - first;
}

// The pairs of [begin, end) that belong to experts below `mine`, and to it.
__device__ int2 CountPairs(const SortArgs& a, int begin, int end, unsigned mine) {
  int2 count = {0, 0};
#pragma unroll 4
  for (int at = begin; at < end; at += kWarpIds) {
    unsigned expert[kLaneIds];
    ReadExperts(a, at + threadIdx.x % kWarpThreads * kLaneIds, expert);
#pragma unroll
    for (int i = 0; i < kLaneIds; ++i) {
      count.x += expert[i] < mine;
      count.y += expert[i] == mine;
    }
  }
  return {__reduce_add_sync(kAllLanes, count.x), __reduce_add_sync(kAllLanes, count.y)};
}

// Writes the pairs of [begin, end) that belong to `mine` to the lists from `to` on.
__device__ void ListPairs(const SortArgs& a, int begin, int end, unsigned mine, int to) {
  const int lane = threadIdx.x % kWarpThreads;
  const unsigned lower_lanes = (1u << lane) - 1;
  for (int first = begin; first < end; first += kWarpIds) {
    const int at = first + lane * kLaneIds;
    unsigned expert[kLaneIds];
    ReadExperts(a, at, expert);
    int before = to;
#pragma unroll
    for (int i = 0; i < kLaneIds; ++i) {
      const unsigned matches = __ballot_sync(kAllLanes, expert[i] == mine);
      before += __popc(matches & lower_lanes);
      to += __popc(matches);
    }
#pragma unroll
    for (int i = 0; i < kLaneIds; ++i) {
      if (expert[i] != mine) continue;
      a.pair_of[before] = at + i;
      a.row_of[before] = (at + i) / a.topk;
      ++before;
    }
  }
}

// A block for each expert, which looks at all pairs; a warp takes a part of them, twice: it counts,
// then it lists.
__global__ __launch_bounds__(kSortThreads) void SortPairsKernel(SortArgs a) {
  __shared__ int2 counts[kSortWarps];
  const unsigned mine = blockIdx.x;
  const int warp = threadIdx.x / kWarpThreads;
  const int part = CeilDiv(a.pairs, kSortWarps * kWarpIds) * kWarpIds;
  const int begin = min(warp * part, a.pairs);
  const int end = min(begin + part, a.pairs);
  const int2 own = CountPairs(a, begin, end, mine);
  if (threadIdx.x % kWarpThreads == 0) counts[warp] = own;
  __syncthreads();
  int lower = 0;   // pairs of lower experts
  int before = 0;  // of this one, in the parts of lower warps
  int all = 0;     // of this one
  for (int w = 0; w < kSortWarps; ++w) {
    lower += counts[w].x;
    before += w < warp ? counts[w].y : 0;
    all += counts[w].y;
  }
  if (threadIdx.x == 0) a.offsets[mine] = lower;
  if (threadIdx.x == 0 && mine == a.experts - 1) a.offsets[a.experts] = lower + all;
  if (own.y > 0) ListPairs(a, begin, end, mine, lower + before);
}

// mid = silu(gate) * up over the pairs there are, rounded to bf16: then in fp8 to `data`, or where
// that is nullptr in bf16 over gate.
__global__ __launch_bounds__(kPackThreads) void SiluMulPairsKernel(Bf16* gate_up, int row_packs,
                                                                   const int32_t* pairs,
                                                                   uint8_t* data, float* scales) {
  const unsigned packs = unsigned(*pairs) * row_packs;
  for (unsigned first = blockIdx.x * kPackThreads; first < packs;
       first += gridDim.x * kPackThreads) {
    const bool mine = first + threadIdx.x < packs;
    const unsigned pack = min(first + threadIdx.x, packs - 1);
    const int64_t row = pack / row_packs;
    const int column = pack % row_packs * kPack;
    const int width = row_packs * kPack;
    Bf16* at = gate_up + row * 2 * width + column;
    float gate[kPack], up[kPack];
    Unpack(LoadPack<16>(at), gate);
    Unpack(LoadPack<16>(at + width), up);
#pragma unroll
    for (int i = 0; i < kPack; ++i) gate[i] = SiluTimes(gate[i], up[i]);
    const auto rounded = PackUp<Bf16, 16>(gate);
    if (data == nullptr) {
      if (mine) StorePack(at, rounded);
      continue;
    }
    Unpack(rounded, gate);
    StoreQuantized(gate, pack, mine, data, scales);
  }
}

// The workspace: lists of pairs, and what lies between the products.
struct Scratch {
  int32_t* offsets;   // [experts + 1]
  int32_t* pair_of;   // [pairs]
  int32_t* row_of;    // [pairs]
  Bf16* gate_up;      // [pairs, 2 * width]
  uint8_t* mid;       // [pairs, width]
  float* mid_scales;  // [pairs, width / 128]
  size_t bytes;
};

Scratch ScratchAt(std::byte* base, int64_t pairs, int experts, int width) {
  size_t used = 0;
  const auto take = [&](size_t bytes) {
    std::byte* at = base == nullptr ? nullptr : base + used;
    used += (bytes + 255) / 256 * 256;
    return at;
  };
  Scratch s = {};
  s.offsets = reinterpret_cast<int32_t*>(take((experts + 1) * sizeof(int32_t)));
  s.pair_of = reinterpret_cast<int32_t*>(take(pairs * sizeof(int32_t)));
  s.row_of = reinterpret_cast<int32_t*>(take(pairs * sizeof(int32_t)));
  s.gate_up = reinterpret_cast<Bf16*>(take(pairs * 2 * width * sizeof(Bf16)));
  s.mid = reinterpret_cast<uint8_t*>(take(pairs * width));
  s.mid_scales =
      reinterpret_cast<float*>(take(pairs * CeilDiv(width, kQuantGroup) * sizeof(float)));
  s.bytes = used;
  return s;
}

// An expert's pairs are multiplied in tiles of 64 by 64 outputs if they are few, when streaming its
// weights is what takes time, else of 128 by 256.
template <DType kType>
using Few = gemm::Config<kType, 64, /*groups=*/1, /*parts=*/1, Chunks::kOne>;
template <DType kType>
using Many = gemm::Config<kType, 128, /*groups=*/2, /*parts=*/2, Chunks::kOne>;

// Experts with least_rows to most_rows pairs, of whom there are at most `experts`.
template <typename C>
void LaunchClass(const Problem& p, GroupedSchedule schedule, int pairs, int least_rows,
                 int most_rows, cudaStream_t stream) {
  schedule.least_rows = least_rows;
  schedule.most_rows = most_rows;
  schedule.tile_rows = C::kRows;
  schedule.out_tiles = CeilDiv(p.out, C::kOut);
  const int experts = std::min(schedule.groups, pairs / least_rows);
  const int64_t items = int64_t{pairs / C::kRows + experts} * schedule.out_tiles;
  BALEEN_CHECK(items <= INT_MAX);
  gemm::LaunchGemm<C>(p, schedule, items, stream);
}

template <DType kType>
void LaunchGrouped(const Problem& p, const GroupedSchedule& schedule, int rows, int pairs,
                   cudaStream_t stream) {
  constexpr int kFewRows = Few<kType>::kRows;
  if (rows <= kFewRows) {
    return LaunchClass<Few<kType>>(p, schedule, pairs, /*least_rows=*/1, INT_MAX, stream);
  }
  if (pairs > kFewRows) {
    LaunchClass<Many<kType>>(p, schedule, pairs, kFewRows + 1, INT_MAX, stream);
  }
  LaunchClass<Few<kType>>(p, schedule, pairs, /*least_rows=*/1, kFewRows, stream);
}

GroupedSchedule ScheduleOf(const Weight* weights, int experts, const int32_t* offsets) {
  GroupedSchedule schedule;
  for (int e = 0; e < experts; ++e) {
    schedule.w[e] = static_cast<const uint8_t*>(weights[e].data);
    schedule.w_scales[e] = weights[e].scales;
  }
  schedule.offsets = offsets;
  schedule.groups = experts;
  return schedule;
}

void CheckWeights(const Weight* weights, int experts, int out, int in, DType type) {
  for (int e = 0; e < experts; ++e) {
    BALEEN_CHECK(weights[e].out == out && weights[e].in == in);
    BALEEN_CHECK_MSG(weights[e].dtype == type, "experts of one type");
    BALEEN_CHECK(gemm::Aligned16(weights[e].data));
    BALEEN_CHECK(type != DType::kF8E4M3 || weights[e].scales != nullptr);
  }
}

void LaunchSort(const ExpertsParams& p, int pairs, const Scratch& scratch, cudaStream_t stream) {
  BALEEN_CHECK(gemm::Aligned16(p.ids));
  const SortArgs args = {p.ids,     pairs,           p.topk,          p.first_expert,
                         p.experts, scratch.offsets, scratch.pair_of, scratch.row_of};
  SortPairsKernel<<<p.experts, kSortThreads, 0, stream>>>(args);
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

// fp8: quantised to scratch.mid; bf16: over gate.
void LaunchSilu(bool fp8, int pairs, int width, const int32_t* pair_count, const Scratch& scratch,
                cudaStream_t stream) {
  const unsigned packs = ThreadsFor(pairs, PacksOf(width));
  const unsigned blocks =
      std::min<unsigned>(BlocksFor(packs), gemm::MultiprocessorCount() * kSiluBlocks);
  SiluMulPairsKernel<<<blocks, kPackThreads, 0, stream>>>(
      scratch.gate_up, PacksOf(width), pair_count, fp8 ? scratch.mid : nullptr, scratch.mid_scales);
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

template <DType kType>
void LaunchTyped(const ExpertsParams& p, int pairs, const Scratch& scratch, cudaStream_t stream) {
  constexpr bool kFp8 = kType == DType::kF8E4M3;
  const int rows = p.x.rows;
  const int dim = p.out.cols;
  const int width = p.down[0].in;
  LaunchSort(p, pairs, scratch, stream);

  Problem up;
  SetShape(2 * width, dim, kType, /*cut=*/false, up);
  SetOutput({scratch.gate_up, DType::kBf16, pairs, 2 * width, 2 * width}, 2 * width, up);
  up.x_rows = scratch.row_of;
  GroupedSchedule schedule = ScheduleOf(p.gate_up, p.experts, scratch.offsets);
  if constexpr (kFp8) {
    up.x_stride = dim;
    schedule.x = p.xq.data;
    schedule.x_scales = p.xq.scales;
  } else {
    SetBf16Input(p.x, up);
    schedule.x = static_cast<const uint8_t*>(p.x.data);
  }
  LaunchGrouped<kType>(up, schedule, rows, pairs, stream);

  LaunchSilu(kFp8, pairs, width, scratch.offsets + p.experts, scratch, stream);

  Problem down;
  SetShape(dim, width, kType, /*cut=*/false, down);
  SetOutput(p.out, dim, down);
  down.y_rows = scratch.pair_of;
  schedule = ScheduleOf(p.down, p.experts, scratch.offsets);
  if constexpr (kFp8) {
    down.x_stride = width;
    schedule.x = scratch.mid;
    schedule.x_scales = scratch.mid_scales;
  } else {
    down.x_stride = 2 * width * int64_t{sizeof(Bf16)};
    schedule.x = reinterpret_cast<const uint8_t*>(scratch.gate_up);
  }
  LaunchGrouped<kType>(down, schedule, rows, pairs, stream);
}

}  // namespace

size_t ExpertsBytes(const StepLimits& limits) {
  const int64_t pairs = int64_t{limits.expert_rows} * limits.experts_per_row;
  return ScratchAt(nullptr, pairs, limits.experts, limits.expert_width).bytes;
}

void LaunchExperts(const ExpertsParams& p, Workspace workspace, cudaStream_t stream) {
  if (p.x.rows == 0 || p.experts == 0) return;
  BALEEN_CHECK(p.topk > 0 && p.first_expert >= 0);
  BALEEN_CHECK_MSG(p.experts > 0 && p.experts <= GroupedSchedule::kMaxGroups,
                   "weights of at most 256 experts are kernel parameters");
  const int64_t pairs = int64_t{p.x.rows} * p.topk;
  BALEEN_CHECK(pairs <= INT_MAX - kSortWarps * kWarpIds);
  const int dim = p.out.cols;
  const int width = p.down[0].in;
  const DType type = p.gate_up[0].dtype;
  BALEEN_CHECK(p.out.rows == pairs);
  CheckWeights(p.gate_up, p.experts, 2 * width, dim, type);
  CheckWeights(p.down, p.experts, dim, width, type);
  const Scratch scratch = ScratchAt(workspace.data, pairs, p.experts, width);
  BALEEN_CHECK_MSG(scratch.bytes <= workspace.bytes, "the step exceeds its StepLimits");
  BALEEN_CHECK_MSG(type != DType::kF32, "the GPU multiplies fp8 and bf16 weights");
  if (type == DType::kF8E4M3) {
    BALEEN_CHECK_MSG(p.xq.data != nullptr, "fp8 weights multiply fp8 rows");
    CheckQuantized(p.xq, p.x.rows, dim);
    LaunchTyped<DType::kF8E4M3>(p, static_cast<int>(pairs), scratch, stream);
  } else {
    BALEEN_CHECK(p.x.cols == dim);
    LaunchTyped<DType::kBf16>(p, static_cast<int>(pairs), scratch, stream);
  }
}

}  // namespace baleen::kernels::cuda
