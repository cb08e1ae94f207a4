// Gate (3.7): a warp for each row. Values are compared as integer keys, so that ties and NaN are
// ordered as in kernels/cpu/gate.cc.
#include <bit>

#include "kernels/cuda/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/packs.cuh"

namespace baleen::kernels::cuda {
namespace {

constexpr int kGateWarps = 4;
constexpr int kMaxTopK = kWarpThreads;
constexpr int kMaxPerLane = 8;

// Larger keys come first: 0 is no value, then NaN, -inf .. +inf. Both zeros have one key.
constexpr uint32_t kNone = 0;
constexpr uint32_t kNan = 1;

__device__ uint32_t KeyOf(float v) {
  if (isnan(v)) return kNan;
  const uint32_t bits = __float_as_uint(v + 0.0f);  // -0 becomes +0
  return bits ^ (bits >> 31 != 0 ? 0xFFFFFFFFu : 0x80000000u);
}
__device__ float ValueOf(uint32_t key) {
  if (key == kNan) return __uint_as_float(0x7FFFFFFFu);
  return __uint_as_float(key ^ (key >> 31 != 0 ? 0x80000000u : 0xFFFFFFFFu));
}

// 1 / (1 + exp(-x)): a quotient good to two units in the last place and one Newton step, since an
// exact division branches and a lane has eight to do. Below -87.3 it is 0: __fdividef(1, y) is,
// from y = 2^126 on, and exp stops before y is infinite.
__device__ float Sigmoid(float x) {
  const float y = 1.0f + expf(x < -88.0f ? 88.0f : -x);
  const float r = __fdividef(1.0f, y);
  return fmaf(r, fmaf(-y, r, 1.0f), r);
}

// Sum of the two largest values of the lane's group, which `group_lanes` neighbouring lanes hold.
template <int kPerLane>
__device__ float GroupScore(const uint32_t (&keys)[kPerLane], int group_lanes) {
  uint32_t first = kNone;
  uint32_t second = kNone;
#pragma unroll
  for (const uint32_t key : keys) {
    second = max(second, min(first, key));
    first = max(first, key);
  }
  for (int d = 1; d < group_lanes; d *= 2) {
    const uint32_t other_first = __shfl_xor_sync(kAllLanes, first, d);
    const uint32_t other_second = __shfl_xor_sync(kAllLanes, second, d);
    second = max(min(first, other_first), max(second, other_second));
    first = max(first, other_first);
  }
  return second == kNone ? ValueOf(first) : ValueOf(first) + ValueOf(second);
}

// Is the lane's group among the topk_groups best? Of equal ones the lower group comes first.
__device__ bool GroupKept(const GateParams& p, float score, int group, int group_lanes) {
  const uint32_t key = KeyOf(score);
  int before = 0;
  for (int g = 0; g < p.groups; ++g) {
    const uint32_t other = __shfl_sync(kAllLanes, key, g * group_lanes);
    before += other > key || (other == key && g < group);
  }
  return before < p.topk_groups;
}

// Bit i of the result: the lane's expert i is one of the row's topk. Lanes hold experts in
// ascending order, so that of equal keys the lowest lane's lowest wins.
template <int kPerLane>
__device__ unsigned Choose(uint32_t (&keys)[kPerLane], int topk, int lane) {
  unsigned chosen = 0;
  for (int j = 0; j < topk; ++j) {
    uint32_t best = kNone;
#pragma unroll
    for (const uint32_t key : keys) best = max(best, key);
    const uint32_t largest = __reduce_max_sync(kAllLanes, best);
    const int winner = __ffs(__ballot_sync(kAllLanes, best == largest)) - 1;
    bool open = lane == winner;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (!open || keys[i] != largest) continue;
      chosen |= 1u << i;
      keys[i] = kNone;
      open = false;
    }
  }
  return chosen;
}

// Sum over the lanes below.
__device__ int PrefixSum(int v, int lane) {
  int sum = v;
#pragma unroll
  for (int d = 1; d < kWarpThreads; d *= 2) {
    const int below = __shfl_up_sync(kAllLanes, sum, d);
    if (lane >= d) sum += below;
  }
  return sum - v;
}

// Lane l holds experts kPerLane l ... Lanes beyond the last expert repeat it, without a key.
template <int kPerLane>
__global__ __launch_bounds__(kGateWarps* kWarpThreads) void GateKernel(GateParams p,
                                                                       int group_lanes) {
  __shared__ int32_t ids[kGateWarps][kMaxTopK];
  __shared__ float scores[kGateWarps][kMaxTopK];
  const int warp = threadIdx.x / kWarpThreads;
  const int lane = threadIdx.x % kWarpThreads;
  const int64_t row = int64_t{blockIdx.x} * kGateWarps + warp;
  if (row >= p.rows) return;  // the whole warp
  if (p.sequences != nullptr && p.sequences[row] == p.empty_sequence) {
    if (lane >= p.topk) return;
    p.ids[row * p.topk + lane] = -1;
    p.weights[row * p.topk + lane] = 0;
    return;
  }

  constexpr int kAccess = kPerLane < 4 ? kPerLane * 4 : 16;
  const bool used = lane * kPerLane < p.experts;
  const int first = used ? lane * kPerLane : p.experts - kPerLane;
  const auto logit_pack = LoadPack<kAccess, kPerLane>(p.logits + row * p.experts + first);
  const auto bias_pack = LoadPack<kAccess, kPerLane>(p.bias + first);
  float score[kPerLane], bias[kPerLane];
  Unpack(logit_pack, score);
  Unpack(bias_pack, bias);
  uint32_t keys[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    score[i] = Sigmoid(score[i]);
    keys[i] = used ? KeyOf(score[i] + bias[i]) : kNone;
  }
  const float group_score = GroupScore(keys, group_lanes);
  if (!GroupKept(p, group_score, lane / group_lanes, group_lanes)) {
#pragma unroll
    for (uint32_t& key : keys) key = kNone;
  }
  const unsigned chosen = Choose(keys, p.topk, lane);

  // The chosen ones by ascending expert; their scores are summed in this order.
  int at = PrefixSum(__popc(chosen), lane);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if ((chosen >> i & 1) == 0) continue;
    ids[warp][at] = first + i;
    scores[warp][at++] = score[i];
  }
  __syncwarp();
  float sum = 0;
  for (int j = 0; j < p.topk; ++j) sum += scores[warp][j];
  const float factor = p.normalize ? p.scale / (sum + 1e-20f) : p.scale;
  if (lane >= p.topk) return;
  p.ids[row * p.topk + lane] = ids[warp][lane];
  p.weights[row * p.topk + lane] = scores[warp][lane] * factor;
}

template <int kPerLane>
void LaunchRows(const GateParams& p, cudaStream_t stream) {
  const int width = p.experts / p.groups;
  const int group_lanes = width / kPerLane;
  BALEEN_CHECK_MSG(width % kPerLane == 0 && std::has_single_bit(unsigned(group_lanes)),
                   "a group must be 1, 2, 4 .. 32 lanes");
  GateKernel<kPerLane>
      <<<BlocksFor(p.rows, kGateWarps), kGateWarps * kWarpThreads, 0, stream>>>(p, group_lanes);
}

}  // namespace

void LaunchGate(const GateParams& p, cudaStream_t stream) {
  BALEEN_CHECK(p.groups >= 1 && p.experts >= 1 && p.experts % p.groups == 0);
  BALEEN_CHECK(p.topk_groups >= 1 && p.topk_groups <= p.groups);
  BALEEN_CHECK(p.topk <= p.experts / p.groups * p.topk_groups);
  BALEEN_CHECK_MSG(p.topk >= 1 && p.topk <= kMaxTopK, "a lane writes one of the chosen experts");
  BALEEN_CHECK_MSG(p.experts <= kMaxPerLane * kWarpThreads, "a lane holds at most 8 experts");
  if (p.rows == 0) return;
  BALEEN_CHECK((AddressBits(p.logits) | AddressBits(p.bias)) % 16 == 0);
  if (p.experts <= kWarpThreads) {
    LaunchRows<1>(p, stream);
  } else if (p.experts <= 2 * kWarpThreads) {
    LaunchRows<2>(p, stream);
  } else if (p.experts <= 4 * kWarpThreads) {
    LaunchRows<4>(p, stream);
  } else {
    LaunchRows<8>(p, stream);
  }
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

}  // namespace baleen::kernels::cuda
