#pragma once

#include <cooperative_groups.h>

#include <cstdint>

#include "kernels/ops.h"

// The CTAs that share a row of scores, and the scores as integers that order as they do.
namespace baleen::kernels::cuda::top_k {

inline constexpr int kVector = 4;  // elements of one access

// The part of a row that a CTA has. Offsets count from the 16-byte boundary at or before the row;
// `shift` of them precede it.
struct Slice {
  const float* aligned_row;
  int shift;
  int end;    // of the row
  int first;  // of the slice
  int length;
};

// The CTAs that share a row.
struct Team {
  cooperative_groups::cluster_group cluster;
  int size;  // 1, 2, 4 or 8
  int rank;

  __device__ void Sync() const {
    if (size == 1) {
      __syncthreads();
    } else {
      cluster.sync();
    }
  }
  template <typename T>
  __device__ T* Of(T* mine, int other) const {
    return size == 1 ? mine : cluster.map_shared_rank(mine, other);
  }
};

// Orders as the scores do; both zeros are equal, NaN is below everything else. Never 0, which
// stands for what is not in the row.
__device__ inline uint32_t Image(float v) {
  const uint32_t bits = __float_as_uint(v + 0.0f);  // -0 becomes +0
  const uint32_t image = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return isnan(v) ? 1 : image;
}

__device__ inline Slice SliceOf(const TopKParams& p, int64_t row, int keys, const Team& team) {
  const int64_t begin = row * p.logits_stride;
  Slice slice;
  slice.shift = static_cast<int>(begin % kVector);
  slice.aligned_row = p.logits + (begin - slice.shift);
  slice.end = slice.shift + keys;
  const int vectors = (slice.end + kVector - 1) / kVector;
  const int share = (vectors + team.size - 1) / team.size * kVector;
  slice.first = min(team.rank * share, vectors * kVector);
  slice.length = min(share, vectors * kVector - slice.first);
  return slice;
}

// The four scores at an offset that is a multiple of four. Some may be another row's or nobody's;
// the 16 aligned bytes can be read all the same, since one of them is the row's.
__device__ inline float4 ReadScores(const Slice& slice, int offset) {
  return __ldg(reinterpret_cast<const float4*>(slice.aligned_row + offset));
}

// Their images; 0 for what is not in the row.
__device__ inline uint4 Images(const Slice& slice, int offset, float4 v) {
  const auto image = [&](int i, float score) {
    const bool in_row = offset + i >= slice.shift && offset + i < slice.end;
    return in_row ? Image(score) : 0;
  };
  return {image(0, v.x), image(1, v.y), image(2, v.z), image(3, v.w)};
}

}  // namespace baleen::kernels::cuda::top_k
