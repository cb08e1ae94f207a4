#pragma once

#include "kernels/cuda/sparse_attention/attend.cuh"

// The CTAs of a cluster hold partial results of the same row and heads, each over its own keys. CTA
// `split` joins those of its share of the heads, read from the shared memory of all, in the order
// of the splits.
namespace baleen::kernels::cuda::sparse_attention {

inline constexpr int kMaxSplits = 8;  // the largest cluster that every Hopper GPU launches

// factors[i * kSplits + s]: what split s's partial result of the CTA's i-th head is multiplied by.
// It is 0 for a split that met no key: its sum is 0, and its partial result was never written.
template <int kSplits>
__device__ void WriteFactors(const Job& job, SharedMemory& shared) {
  if (threadIdx.x >= kTileHeads) return;  // as many as there are factors
  const int head = (job.split * kTileHeads + threadIdx.x) / kSplits;
  const int split = threadIdx.x % kSplits;
  float2 totals[kSplits];
#pragma unroll
  for (int s = 0; s < kSplits; ++s) {
    totals[s] = ptx::LoadClusterF32x2(ptx::ClusterAddress(&shared.totals[head], s));
  }
  float max = -INFINITY;
#pragma unroll
  for (int s = 0; s < kSplits; ++s) max = fmaxf(max, totals[s].x);
  float sum = 0;
  float factor = 0;
#pragma unroll
  for (int s = 0; s < kSplits; ++s) {
    if (totals[s].y == 0) continue;
    const float f = ptx::Exp2(totals[s].x - max);
    sum = fmaf(f, totals[s].y, sum);
    if (s == split) factor = f;
  }
  shared.factors[threadIdx.x] = factor == 0 ? 0 : factor / sum;
}

__device__ inline void AddScaled(float4& sum, float factor, const float4& v) {
  sum.x = fmaf(factor, v.x, sum.x);
  sum.y = fmaf(factor, v.y, sum.y);
  sum.z = fmaf(factor, v.z, sum.z);
  sum.w = fmaf(factor, v.w, sum.w);
}

__device__ inline uint2 RoundToBf16x4(const float4& v) {
  const __nv_bfloat162 low = __floats2bfloat162_rn(v.x, v.y);
  const __nv_bfloat162 high = __floats2bfloat162_rn(v.z, v.w);
  return {reinterpret_cast<const uint32_t&>(low), reinterpret_cast<const uint32_t&>(high)};
}

// A warpgroup takes a head at a time, a thread four of its columns, with eight loads under way.
// Only what is used may be loaded: a load that nothing waits for could still be under way when the
// CTA it reads from has gone.
template <int kSplits>
__device__ void CombineSplits(const Args& a, const Job& job, SharedMemory& shared) {
  constexpr int kShare = kTileHeads / kSplits;
  constexpr int kHeadsAtOnce = 8 / kSplits;
  WriteFactors<kSplits>(job, shared);
  SyncConsumers();
  const int group = threadIdx.x / kWarpgroupThreads;
  const int column = threadIdx.x % kWarpgroupThreads * 4;
  for (int first = 0; first < kShare / kConsumers; first += kHeadsAtOnce) {
    float4 parts[kHeadsAtOnce][kSplits] = {};
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h) {
      const int i = (first + h) * kConsumers + group;
      if (job.first_head + job.split * kShare + i >= a.heads) continue;
      const float* partial = &shared.partial[job.split * kShare + i][column];
#pragma unroll
      for (int s = 0; s < kSplits; ++s) {
        if (shared.factors[i * kSplits + s] == 0) continue;
        parts[h][s] = ptx::LoadClusterF32x4(ptx::ClusterAddress(partial, s));
      }
    }
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h) {
      const int i = (first + h) * kConsumers + group;
      const int head = job.first_head + job.split * kShare + i;
      if (head >= a.heads) continue;
      float4 out = {};
#pragma unroll
      for (int s = 0; s < kSplits; ++s) {
        const float factor = shared.factors[i * kSplits + s];
        if (factor != 0) AddScaled(out, factor, parts[h][s]);
      }
      Bf16* to = a.out + job.row * a.out_stride + int64_t{head} * kLora + column;
      *reinterpret_cast<uint2*>(to) = RoundToBf16x4(out);
    }
  }
}

__device__ inline void Combine(const Args& a, const Job& job, SharedMemory& shared) {
  static_assert(kMaxSplits == 8);
  if (a.splits == 8) {
    CombineSplits<8>(a, job, shared);
  } else if (a.splits == 4) {
    CombineSplits<4>(a, job, shared);
  } else if (a.splits == 2) {
    CombineSplits<2>(a, job, shared);
  } else {
    CombineSplits<1>(a, job, shared);
  }
}

}  // namespace baleen::kernels::cuda::sparse_attention
