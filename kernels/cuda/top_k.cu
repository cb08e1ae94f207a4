// TopK (3.4), exact for every distribution: the k-th largest value is found by counting digits of
// the order-preserving 32-bit image of the scores, 11 + 11 + 10 bits from the top; then one ordered
// sweep writes the positions above it and, of those equal to it, the first ones.
//
// A cluster of CTAs has a row. Each keeps the images of its slice in shared memory, so that a row
// is read once, and nothing else is kept: no list of candidates can overflow. Counts are added
// through distributed shared memory. Cluster size and slices come from shapes; the result does not
// depend on them.
#include "kernels/cuda/check.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/top_k/slice.cuh"

namespace baleen::kernels::cuda {
namespace {

using top_k::Images;
using top_k::kVector;
using top_k::ReadScores;
using top_k::Slice;
using top_k::SliceOf;
using top_k::Team;

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr int kDigits = 3;
constexpr int kDigitBits = 11;  // the last digit has 10
constexpr int kBins = 1 << kDigitBits;
constexpr int kMaxCluster = 8;
static_assert(kBins == kThreads * kVector);  // a thread has one vector of bins
static_assert(kWarps <= kWarpThreads);       // a lane has one warp's sum

// Where a digit begins; the bits above it are the prefix.
__host__ __device__ constexpr int Shift(int digit) {
  return digit == kDigits - 1 ? 0 : 32 - (digit + 1) * kDigitBits;
}

// Rows up to this long are left to one CTA of the cluster: less work than a cluster's barriers.
constexpr int kAlone = 4096;
// Two CTAs fit a multiprocessor, so that one loads while the other counts.
constexpr int kPreferredSlice = 20512;  // an eighth of 163,840 columns fits
constexpr int kShortestSlice = 4096;
constexpr size_t kMaxSharedBytes = 227 << 10;

// The slice's images follow it.
struct Shared {
  alignas(16) uint32_t bins[kBins];    // this CTA's counts of a digit
  alignas(16) uint32_t totals[kBins];  // the cluster's
  uint32_t warp_sums[kWarps];
  uint2 warp_counts[kWarps];        // images above the threshold and equal to it
  uint2 slice_counts[kMaxCluster];  // the same of each CTA
  uint32_t digit;                   // the threshold's
  uint32_t above;                   // images with a larger one
  uint32_t equal;                   // images with this one
};
static_assert(sizeof(Shared) % sizeof(uint4) == 0);

// Counts the first digit.
__device__ void Count(Shared& s, uint4 v) {
  atomicAdd(&s.bins[v.x >> Shift(0)], 1);
  atomicAdd(&s.bins[v.y >> Shift(0)], 1);
  atomicAdd(&s.bins[v.z >> Shift(0)], 1);
  atomicAdd(&s.bins[v.w >> Shift(0)], 1);
}

// Brings the slice's images to shared memory and counts their first digit.
__device__ void LoadAndCount(Shared& s, uint4* images, const Slice& slice) {
  constexpr int kInFlight = 4;  // vectors of a thread
  const int vectors = slice.length / kVector;
  for (int first = threadIdx.x; first < vectors; first += kInFlight * kThreads) {
    float4 scores[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) {
      const int i = first + j * kThreads;
      if (i < vectors) scores[j] = ReadScores(slice, slice.first + i * kVector);
    }
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) {
      const int i = first + j * kThreads;
      if (i >= vectors) break;
      const uint4 v = Images(slice, slice.first + i * kVector, scores[j]);
      images[i] = v;
      Count(s, v);
    }
  }
}

// Counts a later digit of the images that begin with `prefix`.
__device__ void CountDigit(Shared& s, const uint4* images, const Slice& slice, int digit,
                           uint32_t prefix) {
  const int shift = Shift(digit);
  const int prefix_shift = Shift(digit - 1);
  const uint32_t mask = (1u << (prefix_shift - shift)) - 1;
  const auto count = [&](uint32_t image) {
    if (image >> prefix_shift == prefix) atomicAdd(&s.bins[image >> shift & mask], 1);
  };
  for (int i = threadIdx.x; i < slice.length / kVector; i += kThreads) {
    const uint4 v = images[i];
    count(v.x);
    count(v.y);
    count(v.z);
    count(v.w);
  }
}

__device__ uint2 Add(uint2 a, uint2 b) { return {a.x + b.x, a.y + b.y}; }
__device__ uint4 Add(uint4 a, uint4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }

// Adds the team's counts. Each CTA adds a part of the bins for all: `size` neighbouring threads
// read one vector of bins, each from another CTA, add by shuffles, and each writes the sum to
// another CTA. Returns where the totals are; both ends are barriers.
__device__ const uint4* AddCounts(Shared& s, const Team& team) {
  team.Sync();
  auto* bins = reinterpret_cast<uint4*>(s.bins);
  if (team.size == 1) return bins;
  const int other = threadIdx.x % team.size;
  const int vector = team.rank * (kThreads / team.size) + threadIdx.x / team.size;
  uint4 sum = team.Of(bins, other)[vector];
  for (int d = 1; d < team.size; d *= 2) {
    sum = Add(sum, {__shfl_xor_sync(kAllLanes, sum.x, d), __shfl_xor_sync(kAllLanes, sum.y, d),
                    __shfl_xor_sync(kAllLanes, sum.z, d), __shfl_xor_sync(kAllLanes, sum.w, d)});
  }
  auto* totals = reinterpret_cast<uint4*>(s.totals);
  team.Of(totals, other)[vector] = sum;
  team.Sync();
  return totals;
}

// The sum over the threads before this one of the block. One barrier.
__device__ uint32_t SumBefore(Shared& s, uint32_t v) {
  const int lane = threadIdx.x % kWarpThreads;
  const int warp = threadIdx.x / kWarpThreads;
  uint32_t sum = v;
#pragma unroll
  for (int d = 1; d < kWarpThreads; d *= 2) {
    const uint32_t lower = __shfl_up_sync(kAllLanes, sum, d);
    if (lane >= d) sum += lower;
  }
  if (lane == kWarpThreads - 1) s.warp_sums[warp] = sum;
  __syncthreads();
  const uint32_t others = lane < warp ? s.warp_sums[lane] : 0;  // warps <= lanes
  return sum - v + __reduce_add_sync(kAllLanes, others);
}

// The bin that holds the `wanted`-th largest, counted from the top: its number, the count above it
// and its own, to s.digit, s.above, s.equal. Threads take the vectors from the top.
__device__ void FindDigit(Shared& s, const uint4* totals, uint32_t wanted) {
  const int vector = kThreads - 1 - threadIdx.x;
  const uint4 v = totals[vector];
  const uint32_t counts[kVector] = {v.w, v.z, v.y, v.x};
  uint32_t above = SumBefore(s, v.x + v.y + v.z + v.w);
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    if (above < wanted && wanted <= above + counts[i]) {
      s.digit = vector * kVector + kVector - 1 - i;
      s.above = above;
      s.equal = counts[i];
    }
    above += counts[i];
  }
  __syncthreads();
}

// Images above `image` are chosen, and the first `ties` of those equal to it.
struct Threshold {
  uint32_t image;
  uint32_t ties;
};

__device__ void ClearBins(Shared& s) {
  reinterpret_cast<uint4*>(s.bins)[threadIdx.x] = {0, 0, 0, 0};
}

// Leaves the slice's images in `images`.
__device__ Threshold FindThreshold(Shared& s, uint4* images, const Slice& slice, const Team& team,
                                   int k) {
  uint32_t wanted = k;
  uint32_t prefix = 0;
  for (int digit = 0; digit < kDigits; ++digit) {
    ClearBins(s);
    __syncthreads();
    if (digit == 0) {
      LoadAndCount(s, images, slice);
    } else {
      CountDigit(s, images, slice, digit, prefix);
    }
    FindDigit(s, AddCounts(s, team), wanted);
    prefix = digit == 0 ? s.digit : prefix << (Shift(digit - 1) - Shift(digit)) | s.digit;
    wanted -= s.above;
    // All images with this prefix: nothing is left to tell apart. The prefix is not 0, since the
    // row has more than k keys and what is below it is not chosen.
    if (s.equal == wanted) return {(prefix << Shift(digit)) - 1, 0};
  }
  return {prefix, wanted};
}

// Counts of images above the threshold and equal to it; of one warp's part they fit 16 bits each.
__device__ uint32_t Compare(uint4 v, uint32_t image) {
  const uint32_t above = (v.x > image) + (v.y > image) + (v.z > image) + (v.w > image);
  const uint32_t equal = (v.x == image) + (v.y == image) + (v.z == image) + (v.w == image);
  return above | equal << 16;
}

// A warp's part of the slice, in vectors: a multiple of its lanes but for the end.
struct Part {
  int begin;
  int end;
};
__device__ Part WarpPart(const Slice& slice) {
  const int vectors = slice.length / kVector;
  const int rounds = (vectors + kThreads - 1) / kThreads;
  const int begin = threadIdx.x / kWarpThreads * rounds * kWarpThreads;
  return {min(begin, vectors), min(begin + rounds * kWarpThreads, vectors)};
}

// How many images above and equal to the threshold (x, y) precede this warp's part in the row.
__device__ uint2 CountBefore(Shared& s, const uint4* images, const Part& part, const Team& team,
                             uint32_t threshold) {
  const int lane = threadIdx.x % kWarpThreads;
  const int warp = threadIdx.x / kWarpThreads;
  uint32_t counts = 0;
  for (int i = part.begin + lane; i < part.end; i += kWarpThreads) {
    counts += Compare(images[i], threshold);
  }
  const uint32_t above = __reduce_add_sync(kAllLanes, counts & 0xFFFF);
  const uint32_t equal = __reduce_add_sync(kAllLanes, counts >> 16);
  if (lane == 0) s.warp_counts[warp] = {above, equal};
  __syncthreads();
  if (team.size > 1) {
    const int other = threadIdx.x;
    if (other < team.size) {
      uint2 all = {0, 0};
      for (const uint2 one : s.warp_counts) all = Add(all, one);
      team.Of(s.slice_counts, other)[team.rank] = all;
    }
    team.Sync();
  }
  uint2 before = lane < warp ? s.warp_counts[lane] : uint2{0, 0};
  if (lane < team.rank) before = Add(before, s.slice_counts[lane]);
  return {__reduce_add_sync(kAllLanes, before.x), __reduce_add_sync(kAllLanes, before.y)};
}

// Writes the chosen positions of the warp's part to where they belong among the row's.
__device__ void WriteChosen(const uint4* images, const Slice& slice, const Part& part,
                            const Threshold& threshold, uint2 before, int32_t* indices) {
  const int lane = threadIdx.x % kWarpThreads;
  for (int base = part.begin; base < part.end; base += kWarpThreads) {
    const int i = base + lane;
    const uint4 v = i < part.end ? images[i] : uint4{0, 0, 0, 0};
    const uint32_t counts = Compare(v, threshold.image);
    if (!__any_sync(kAllLanes, counts != 0)) continue;
    uint32_t sum = counts;
#pragma unroll
    for (int d = 1; d < kWarpThreads; d *= 2) {
      const uint32_t lower = __shfl_up_sync(kAllLanes, sum, d);
      if (lane >= d) sum += lower;
    }
    uint32_t above = before.x + ((sum - counts) & 0xFFFF);
    uint32_t equal = before.y + ((sum - counts) >> 16);
    const uint32_t image[kVector] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      const bool tie = image[j] == threshold.image;
      if (image[j] > threshold.image || (tie && equal < threshold.ties)) {
        indices[above + min(equal, threshold.ties)] = slice.first + i * kVector + j - slice.shift;
      }
      above += image[j] > threshold.image;
      equal += tie;
    }
    const uint32_t total = __shfl_sync(kAllLanes, sum, kWarpThreads - 1);
    before = {before.x + (total & 0xFFFF), before.y + (total >> 16)};
  }
}

// Grid: a cluster a row. `capacity`: words of a CTA's slice.
__global__ __launch_bounds__(kThreads, 2) void TopKKernel(const TopKParams p, int capacity) {
  extern __shared__ uint4 memory[];
  auto& s = *reinterpret_cast<Shared*>(memory);
  uint4* images = memory + sizeof(Shared) / sizeof(uint4);
  Team team = {.cluster = cooperative_groups::this_cluster()};
  team.size = static_cast<int>(team.cluster.num_blocks());
  team.rank = static_cast<int>(team.cluster.block_rank());
  const int64_t row = blockIdx.x / team.size;
  const int keys = p.positions[row] + 1;
  int32_t* indices = p.indices + row * p.k;
  if (keys <= p.k) {
    for (int i = team.rank * kThreads + threadIdx.x; i < p.k; i += team.size * kThreads) {
      indices[i] = i < keys ? i : -1;
    }
    return;
  }
  if (keys + 2 * kVector <= min(capacity, kAlone)) {
    if (team.rank > 0) return;
    team.size = 1;
  }
  const Slice slice = SliceOf(p, row, keys, team);
  const Threshold threshold = FindThreshold(s, images, slice, team, p.k);
  const Part part = WarpPart(slice);
  const uint2 before = CountBefore(s, images, part, team, threshold.image);
  WriteChosen(images, slice, part, threshold, before, indices);
}

struct Geometry {
  int cluster;
  int capacity;  // of a slice, words
};

// Larger clusters for long rows, so that two CTAs fit a multiprocessor, and for few rows, as long
// as each has a multiprocessor to itself and enough to do.
Geometry ChooseGeometry(int64_t rows, int64_t stride, int multiprocessors) {
  const int64_t vectors = (stride + 2 * (kVector - 1)) / kVector;  // at any shift
  const auto slice = [&](int cluster) { return (vectors + cluster - 1) / cluster * kVector; };
  int cluster = 1;
  while (cluster < kMaxCluster &&
         (slice(cluster) > kPreferredSlice ||
          (slice(cluster) > kShortestSlice && rows * cluster * 2 <= multiprocessors))) {
    cluster *= 2;
  }
  BALEEN_CHECK_MSG(slice(cluster) * sizeof(uint32_t) + sizeof(Shared) <= kMaxSharedBytes,
                   "a row of logits is longer than a cluster's shared memory");
  return {cluster, static_cast<int>(slice(cluster))};
}

}  // namespace

void LaunchTopK(const TopKParams& p, cudaStream_t stream) {
  if (p.rows == 0) return;
  BALEEN_CHECK(p.k > 0 && p.logits_stride > 0);
  int device = 0;
  int multiprocessors = 0;
  BALEEN_CUDA_CHECK(cudaGetDevice(&device));
  BALEEN_CUDA_CHECK(
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  const Geometry geometry = ChooseGeometry(p.rows, p.logits_stride, multiprocessors);
  const size_t shared_bytes = sizeof(Shared) + geometry.capacity * sizeof(uint32_t);
  BALEEN_CUDA_CHECK(cudaFuncSetAttribute(TopKKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(kMaxSharedBytes)));
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(geometry.cluster), 1, 1};
  const cudaLaunchConfig_t config = {.gridDim = dim3(p.rows * geometry.cluster),
                                     .blockDim = dim3(kThreads),
                                     .dynamicSmemBytes = shared_bytes,
                                     .stream = stream,
                                     .attrs = &attribute,
                                     .numAttrs = 1};
  BALEEN_CUDA_CHECK(cudaLaunchKernelEx(&config, TopKKernel, p, geometry.capacity));
}

}  // namespace baleen::kernels::cuda
