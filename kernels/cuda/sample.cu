// Sample: a CTA for each row. The logits stay where they are (their row is read from L2 by every
// pass) and edits are looked up while they are read, through a bitmap of the edited tokens. top_k
// and top_p are the same search: the first order, counted from the largest logit, at which a sum of
// integers reaches its mark, then among equal logits the first id; and so is the draw, in ascending
// id order. Integers make the order of the sums free, and the results those of
// kernels/cpu/sample.cc.
#include <limits>

#include "kernels/cuda/check.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/sampling_math.h"

namespace baleen::kernels::cuda {
namespace {

using namespace sampling;  // NOLINT: the arithmetic

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr int kMaxLimit = 1 << 18;
constexpr int kDigitBits = 8;
constexpr int kBins = 1 << kDigitBits;

struct Shared {
  unsigned long long bins[kBins];
  unsigned long long warps[kWarps];
  unsigned long long result;
  uint32_t digit;
  uint32_t edited[kMaxLimit / 32];  // a bit for each token
};

// What is left of the candidates after a cut: logits above `order`, and ids up to `id` of those
// equal to it.
struct Threshold {
  uint32_t order = 0;
  int id = std::numeric_limits<int>::max();

  __device__ bool Keeps(uint32_t o, int token) const {
    return o > order || (o == order && token <= id);
  }
};

// The row's logits with their edits.
struct Logits {
  const float* raw;
  int limit;
  const LogitEdit* edits;
  int edit_count;
  const uint32_t* edited;
  const SamplingRow* row;

  __device__ float operator()(int token) const {
    const float logit = raw[token];
    if (edit_count == 0 || (edited[token / 32] >> token % 32 & 1) == 0) return logit;
    int low = 0;
    for (int high = edit_count - 1; low < high;) {
      const int middle = (low + high) / 2;
      if (edits[middle].token < token) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return Edited(logit, edits[low], *row);
  }
};

__device__ unsigned long long WarpSum64(unsigned long long v) {
#pragma unroll
  for (int d = kWarpThreads / 2; d > 0; d /= 2) v += __shfl_xor_sync(kAllLanes, v, d);
  return v;
}
__device__ unsigned long long WarpMax64(unsigned long long v) {
#pragma unroll
  for (int d = kWarpThreads / 2; d > 0; d /= 2) v = max(v, __shfl_xor_sync(kAllLanes, v, d));
  return v;
}

// Combines one value of each thread; every thread gets the result. Two barriers.
template <typename Combine>
__device__ unsigned long long Reduce(Shared& s, unsigned long long v, Combine combine) {
  v = combine(v);
  __syncthreads();  // the last result has been read
  if (threadIdx.x % kWarpThreads == 0) s.warps[threadIdx.x / kWarpThreads] = v;
  __syncthreads();
  return combine(s.warps[threadIdx.x % kWarpThreads]);
}
__device__ unsigned long long Sum(Shared& s, unsigned long long v) {
  return Reduce(s, v, WarpSum64);
}
__device__ unsigned long long Max(Shared& s, unsigned long long v) {
  return Reduce(s, v, WarpMax64);
}

// Sum of mass(token) over all tokens.
template <typename Mass>
__device__ unsigned long long Total(Shared& s, int limit, Mass mass) {
  unsigned long long sum = 0;
  for (int t = threadIdx.x; t < limit; t += kThreads) sum += mass(t);
  return Sum(s, sum);
}

// The first token, by ascending id, up to which the masses sum to more than `before`. There is one.
template <typename Mass>
__device__ int FirstBeyond(Shared& s, int limit, unsigned long long before, Mass mass) {
  const int warp = threadIdx.x / kWarpThreads;
  const int lane = threadIdx.x % kWarpThreads;
  const int share = (limit + kWarps * kWarpThreads - 1) / (kWarps * kWarpThreads) * kWarpThreads;
  const int begin = warp * share;
  const int end = min(begin + share, limit);
  unsigned long long sum = 0;
  for (int t = begin + lane; t < end; t += kWarpThreads) sum += mass(t);
  sum = WarpSum64(sum);
  __syncthreads();
  if (lane == 0) s.warps[warp] = sum;
  __syncthreads();
  unsigned long long below = 0;  // of the warps before this one
  for (int w = 0; w < warp; ++w) below += s.warps[w];
  if (below <= before && before < below + sum) {
    unsigned long long left = before - below;
    for (int first = begin;; first += kWarpThreads) {
      const int t = first + lane;
      const unsigned long long own = t < end ? mass(t) : 0;
      unsigned long long prefix = own;
#pragma unroll
      for (int d = 1; d < kWarpThreads; d *= 2) {
        const unsigned long long lower = __shfl_up_sync(kAllLanes, prefix, d);
        if (lane >= d) prefix += lower;
      }
      const unsigned beyond = __ballot_sync(kAllLanes, prefix > left);
      if (beyond != 0) {
        if (lane == 0) s.result = first + __ffs(beyond) - 1;
        break;
      }
      left -= __shfl_sync(kAllLanes, prefix, kWarpThreads - 1);
    }
  }
  __syncthreads();
  return static_cast<int>(s.result);
}

// The bin, from the top, at which the masses of the bins reach `wanted` (1 .. their sum): to
// s.digit; the mass above it to s.result. The first warp takes eight bins a lane.
__device__ void FindDigit(Shared& s, unsigned long long wanted) {
  __syncthreads();
  if (threadIdx.x < kWarpThreads) {
    constexpr int kLaneBins = kBins / kWarpThreads;
    const int top = kBins - 1 - threadIdx.x * kLaneBins;
    unsigned long long own = 0;
    for (int i = 0; i < kLaneBins; ++i) own += s.bins[top - i];
    unsigned long long above = own;
#pragma unroll
    for (int d = 1; d < kWarpThreads; d *= 2) {
      const unsigned long long lower = __shfl_up_sync(kAllLanes, above, d);
      if (threadIdx.x >= d) above += lower;
    }
    above -= own;
    for (int i = 0; i < kLaneBins; ++i) {
      const unsigned long long bin = s.bins[top - i];
      if (above < wanted && wanted <= above + bin) {
        s.digit = top - i;
        s.result = above;
      }
      above += bin;
    }
  }
  __syncthreads();
}

// The cut that leaves the fewest candidates, from the largest logit and among equals from the
// lowest id, whose masses sum to at least `wanted`. `mass` is 0 for what is no candidate.
template <typename Order, typename Mass>
__device__ Threshold CutAt(Shared& s, int limit, unsigned long long wanted, Order order,
                           Mass mass) {
  uint32_t prefix = 0;
  for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    if (threadIdx.x < kBins) s.bins[threadIdx.x] = 0;
    __syncthreads();
    const auto matches = [&](uint32_t o) {
      return shift == 32 - kDigitBits || o >> (shift + kDigitBits) == prefix;
    };
    for (int t = threadIdx.x; t < limit; t += kThreads) {
      const uint32_t o = order(t);
      if (!matches(o)) continue;
      const unsigned long long m = mass(t);
      if (m > 0) atomicAdd(&s.bins[o >> shift & (kBins - 1)], m);
    }
    FindDigit(s, wanted);
    prefix = prefix << kDigitBits | s.digit;
    wanted -= s.result;
  }
  const int id =
      FirstBeyond(s, limit, wanted - 1, [&](int t) { return order(t) == prefix ? mass(t) : 0ull; });
  return {prefix, id};
}

// Order and id of a token as one number: the larger logit, of equal ones the lower id. 0: NaN.
__device__ unsigned long long KeyOf(float logit, int token) {
  if (isnan(logit)) return 0;
  return (unsigned long long){OrderOf(logit)} << 32 | (0xFFFFFFFFu - token);
}
__device__ int TokenOf(unsigned long long key) {
  return static_cast<int>(0xFFFFFFFFu - uint32_t(key));
}

// The largest key below `bound`, or 0.
template <typename Values>
__device__ unsigned long long LargestBelow(Shared& s, int limit, unsigned long long bound,
                                           Values logits) {
  unsigned long long best = 0;
  for (int t = threadIdx.x; t < limit; t += kThreads) {
    const unsigned long long key = KeyOf(logits(t), t);
    if (key < bound) best = max(best, key);
  }
  return Max(s, best);
}

constexpr unsigned long long kNoBound = ~0ull;

__device__ int Draw(Shared& s, const Logits& logits, float largest) {
  const SamplingRow& row = *logits.row;
  const unsigned long long least = LeastWeight(row.min_p);
  Threshold kept;
  const auto order = [&](int t) { return OrderOf(logits(t)); };
  const auto mass = [&](int t) -> unsigned long long {
    const float logit = logits(t);
    const unsigned long long weight = WeightOf(logit, largest, row.temperature);
    return weight >= least && kept.Keeps(OrderOf(logit), t) ? weight : 0;
  };
  const auto one = [&](int t) -> unsigned long long { return mass(t) > 0 ? 1 : 0; };
  if (row.top_k > 0 && static_cast<unsigned long long>(row.top_k) < Total(s, logits.limit, one)) {
    const Threshold cut = CutAt(s, logits.limit, row.top_k, order, one);
    kept = cut;
  }
  unsigned long long total = Total(s, logits.limit, mass);
  if (row.top_p < 1) {
    const Threshold cut = CutAt(s, logits.limit, WantedMass(row.top_p, total), order, mass);
    kept = cut;
    total = Total(s, logits.limit, mass);
  }
  return FirstBeyond(s, logits.limit, DrawnMass(RandomBits(row.seed, row.position), total), mass);
}

__device__ int Choose(Shared& s, const Logits& logits) {
  const unsigned long long best = LargestBelow(s, logits.limit, kNoBound, logits);
  const int token = TokenOf(best);
  if (best == 0 || logits(token) == -INFINITY) {
    const auto broken = [&](int t) -> unsigned long long { return Broken(logits(t)) ? 1 : 0; };
    return Total(s, logits.limit, broken) > 0 ? kOverflow : kNothingLeft;
  }
  const float largest = logits(token);
  if (Broken(largest)) return kOverflow;
  return logits.row->temperature == 0 ? token : Draw(s, logits, largest);
}

__device__ void Logprobs(Shared& s, const SampleParams& p, int64_t r, const float* raw, int top,
                         int token) {
  const auto logits = [raw](int t) { return raw[t]; };
  unsigned long long key = LargestBelow(s, p.limit, kNoBound, logits);
  const float largest = raw[TokenOf(key)];
  const unsigned long long total =
      Total(s, p.limit, [&](int t) -> unsigned long long { return WeightOf(raw[t], largest, 1); });
  const double log_sum = LogSum(largest, total);
  if (threadIdx.x == 0) p.logprobs[r] = static_cast<float>(raw[token] - log_sum);
  for (int i = 0; i < kMaxTopLogprobs; ++i) {
    const bool listed = i < top && key != 0 && raw[TokenOf(key)] > -INFINITY;
    if (threadIdx.x == 0) {
      const int64_t at = r * kMaxTopLogprobs + i;
      p.top_tokens[at] = listed ? TokenOf(key) : -1;
      p.top_logprobs[at] = listed ? static_cast<float>(raw[TokenOf(key)] - log_sum) : -INFINITY;
    }
    if (listed && i + 1 < top) key = LargestBelow(s, p.limit, key, logits);
    if (!listed) key = 0;
  }
}

// Marks the tokens that the row's edits name.
__device__ void MarkEdited(Shared& s, const LogitEdit* edits, int count, int limit) {
  if (count == 0) return;
  for (int i = threadIdx.x; i < (limit + 31) / 32; i += kThreads) s.edited[i] = 0;
  __syncthreads();
  for (int e = threadIdx.x; e < count; e += kThreads) {
    atomicOr(&s.edited[edits[e].token / 32], 1u << edits[e].token % 32);
  }
  __syncthreads();
}

__global__ __launch_bounds__(kThreads, 1) void SampleKernel(SampleParams p) {
  extern __shared__ __align__(16) unsigned char memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  const int64_t r = blockIdx.x;
  float* raw = static_cast<float*>(p.logits.data) + r * p.logits.stride;
  const SamplingRow row = p.rows != nullptr ? p.rows[r] : SamplingRow{};
  for (int i = threadIdx.x; i < p.missing_count; i += kThreads) raw[p.missing[i]] = -INFINITY;
  __syncthreads();
  const auto broken = [raw](int t) -> unsigned long long { return Broken(raw[t]) ? 1 : 0; };
  if (Total(s, p.limit, broken) > 0) {
    if (threadIdx.x == 0) p.tokens[r] = kBrokenLogit;
    return;
  }
  int token = row.forced;
  if (raw[TokenOf(LargestBelow(s, p.limit, kNoBound, [raw](int t) { return raw[t]; }))] ==
      -INFINITY) {
    token = kNothingLeft;
  } else if (token < 0) {
    const LogitEdit* edits = p.edits + row.first_edit;
    MarkEdited(s, edits, row.edits, p.limit);
    token = Choose(s, {raw, p.limit, edits, row.edits, s.edited, &row});
  }
  if (threadIdx.x == 0) p.tokens[r] = token;
  if (token >= 0 && row.top_logprobs >= 0) Logprobs(s, p, r, raw, row.top_logprobs, token);
}

}  // namespace

void LaunchSample(const SampleParams& p, cudaStream_t stream) {
  BALEEN_CHECK(p.limit > 0 && p.limit <= p.logits.cols && p.logits.dtype == DType::kF32);
  BALEEN_CHECK_MSG(p.limit <= kMaxLimit, "a vocabulary of at most 262,144 ids");
  if (p.logits.rows == 0) return;
  BALEEN_CUDA_CHECK(cudaFuncSetAttribute(SampleKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         sizeof(Shared)));
  SampleKernel<<<p.logits.rows, kThreads, sizeof(Shared), stream>>>(p);
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

}  // namespace baleen::kernels::cuda
