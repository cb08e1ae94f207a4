// Sample: a CTA a row, which stays in global memory and is swept a few times. A warp takes segments
// of consecutive ids. Edited logits are never stored: a sweep leaves out the tokens that a bitmap
// in shared memory marks, and computes theirs from the list of edits. Sums are of integers and may
// be added in any order; where the order of ids matters, sums of segments lead to one segment.
#include <cmath>
#include <limits>

#include "kernels/cuda/check.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/sampling_math.h"

namespace baleen::kernels::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr int kPerLane = 8;
constexpr int kSegment = kPerLane * kWarpThreads;      // ids
static_assert(kMaxVocabulary == kThreads * kSegment);  // a thread has one segment's sum

constexpr float kMasked = -std::numeric_limits<float>::infinity();

// A key is selected by digits of 11, 11 and 10 bits from the top.
constexpr int kDigits = 3;
constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;
static_assert(kBins == 2 * kThreads);  // a thread has two bins

__device__ constexpr int Shift(int digit) {
  return digit == kDigits - 1 ? 0 : 32 - (digit + 1) * kDigitBits;
}

struct Shared {
  uint32_t edited[kMaxVocabulary / 32];  // a bit a token
  union {
    struct {
      uint32_t low[kBins];  // sums of a digit, 64 bits in two words
      uint32_t high[kBins];
    } bins;
    uint64_t segments[kThreads];  // their sums
    uint64_t measures[kSegment];  // of one segment's tokens
  };
  uint64_t warps[kWarps];
  uint64_t left;  // of what was wanted, in the bin or segment found
  uint64_t held;  // by the bin found
  int found;      // bin, segment or token
  int count;      // of top tokens
  uint32_t top_keys[kMaxTopLogprobs];
  int32_t top_tokens[kMaxTopLogprobs];
};

// A row's logits, with or without its edits.
struct Tokens {
  const float* logits;
  int limit;
  const uint32_t* edited;  // bitmap
  const LogitEdit* edits;
  int edit_count;  // 0: the bitmap is not read
  SamplingRow row;
};

__device__ bool Edited(const Tokens& t, int id) {
  return t.edit_count > 0 && (t.edited[id / 32] >> id % 32 & 1) != 0;
}

// f(id, logit) for the tokens of a segment without an edit. A warp's work.
template <class F>
__device__ void ForEachOfSegment(const Tokens& t, int segment, const F& f) {
  const int first = segment * kSegment + threadIdx.x % kWarpThreads;
  float logits[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int id = first + i * kWarpThreads;
    logits[i] = id < t.limit ? t.logits[id] : 0;
  }
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int id = first + i * kWarpThreads;
    if (id < t.limit && !Edited(t, id)) f(id, logits[i]);
  }
}

// f(id, logit) for the tokens with an edit.
template <class F>
__device__ void ForEachEdited(const Tokens& t, const F& f) {
  for (int i = threadIdx.x; i < t.edit_count; i += kThreads) {
    const LogitEdit edit = t.edits[i];
    f(edit.token, EditedLogit(t.logits[edit.token], edit, t.row));
  }
}

__device__ int Segments(const Tokens& t) { return (t.limit + kSegment - 1) / kSegment; }

// f(id, logit) for all tokens, in any order.
template <class F>
__device__ void ForEach(const Tokens& t, const F& f) {
  const int segments = Segments(t);
  for (int i = threadIdx.x / kWarpThreads; i < segments; i += kWarps) ForEachOfSegment(t, i, f);
  ForEachEdited(t, f);
}

// The sum over the threads before this one, and the sum over all. Two barriers.
struct Sums {
  uint64_t before;
  uint64_t total;
};
__device__ Sums SumUp(Shared& s, uint64_t v) {
  const int lane = threadIdx.x % kWarpThreads;
  const int warp = threadIdx.x / kWarpThreads;
  uint64_t sum = v;
#pragma unroll
  for (int d = 1; d < kWarpThreads; d *= 2) {
    const uint64_t lower = __shfl_up_sync(kAllLanes, sum, d);
    if (lane >= d) sum += lower;
  }
  __syncthreads();
  if (lane == kWarpThreads - 1) s.warps[warp] = sum;
  __syncthreads();
  Sums sums = {sum - v, 0};
  for (int i = 0; i < kWarps; ++i) {
    if (i < warp) sums.before += s.warps[i];
    sums.total += s.warps[i];
  }
  return sums;
}

// The largest over all threads. Two barriers.
__device__ uint64_t Max(Shared& s, uint64_t v) {
#pragma unroll
  for (int d = kWarpThreads / 2; d > 0; d /= 2) {
    v = max(v, __shfl_xor_sync(kAllLanes, v, d));
  }
  __syncthreads();
  if (threadIdx.x % kWarpThreads == 0) s.warps[threadIdx.x / kWarpThreads] = v;
  __syncthreads();
  for (int i = 0; i < kWarps; ++i) v = max(v, s.warps[i]);
  return v;
}

// The largest logit, of equal ones the lowest id's.
struct Best {
  float logit;
  int32_t id;
  bool broken;  // a logit is
};
__device__ Best FindBest(Shared& s, const Tokens& t) {
  bool broken = false;
  uint64_t best = 0;
  ForEach(t, [&](int id, float logit) {
    broken |= Broken(logit);
    best = max(best, uint64_t{OrderKey(logit)} << 32 | ~static_cast<uint32_t>(id));
  });
  best = Max(s, best);
  return {FromOrderKey(static_cast<uint32_t>(best >> 32)),
          static_cast<int32_t>(~static_cast<uint32_t>(best)), __syncthreads_or(broken) != 0};
}

// Leaves the sums of measure(id, logit) over each segment in s.segments.
template <class Measure>
__device__ void SumSegments(Shared& s, const Tokens& t, const Measure& measure) {
  s.segments[threadIdx.x] = 0;
  __syncthreads();
  for (int i = threadIdx.x / kWarpThreads; i < Segments(t); i += kWarps) {
    uint64_t sum = 0;
    ForEachOfSegment(t, i, [&](int id, float logit) { sum += measure(id, logit); });
#pragma unroll
    for (int d = kWarpThreads / 2; d > 0; d /= 2) sum += __shfl_xor_sync(kAllLanes, sum, d);
    if (threadIdx.x % kWarpThreads == 0) s.segments[i] = sum;
  }
  __syncthreads();
  ForEachEdited(t, [&](int id, float logit) {
    const uint64_t v = measure(id, logit);
    auto* sum = reinterpret_cast<unsigned long long*>(&s.segments[id / kSegment]);
    if (v > 0) atomicAdd(sum, static_cast<unsigned long long>(v));
  });
  __syncthreads();
}

// Leaves measure(id, logit) of a segment's tokens in s.measures.
template <class Measure>
__device__ void MeasureSegment(Shared& s, const Tokens& t, int segment, const Measure& measure) {
  const int first = segment * kSegment;
  if (threadIdx.x < kSegment) s.measures[threadIdx.x] = 0;
  __syncthreads();
  if (threadIdx.x < kWarpThreads) {
    ForEachOfSegment(t, segment,
                     [&](int id, float logit) { s.measures[id - first] = measure(id, logit); });
  }
  ForEachEdited(t, [&](int id, float logit) {
    if (id / kSegment == segment) s.measures[id - first] = measure(id, logit);
  });
  __syncthreads();
}

// The first id at which the sum of measure(id, logit) in ascending order exceeds
// target_of(the sum over all), which is below that sum.
template <class Measure, class TargetOf>
__device__ int32_t FindId(Shared& s, const Tokens& t, const Measure& measure,
                          const TargetOf& target_of) {
  const auto find = [&](uint64_t mine, const auto& target_of_total) {
    const Sums sums = SumUp(s, mine);
    const uint64_t target = target_of_total(sums.total);
    if (sums.before <= target && target < sums.before + mine) {
      s.found = threadIdx.x;
      s.left = target - sums.before;
    }
    __syncthreads();
    return s.found;
  };
  SumSegments(s, t, measure);
  const int segment = find(s.segments[threadIdx.x], target_of);
  const uint64_t left = s.left;
  MeasureSegment(s, t, segment, measure);
  const uint64_t mine = threadIdx.x < kSegment ? s.measures[threadIdx.x] : 0;
  return segment * kSegment + find(mine, [left](uint64_t) { return left; });
}

// The tokens with a larger key, and those with this key and a lower id.
struct Limit {
  uint32_t key = 0;
  int32_t id = 0;
};
__device__ bool Within(const Limit& limit, int id, float logit) {
  const uint32_t key = OrderKey(logit);
  return key > limit.key || (key == limit.key && id < limit.id);
}

// Adds to the sum of a bin; who makes the low word overflow carries.
__device__ void AddToBin(Shared& s, uint32_t bin, uint64_t v) {
  const auto low = static_cast<uint32_t>(v);
  const uint32_t old = atomicAdd(&s.bins.low[bin], low);
  const uint32_t carry = old + low < old ? 1 : 0;
  const uint32_t high = static_cast<uint32_t>(v >> 32) + carry;
  if (high > 0) atomicAdd(&s.bins.high[bin], high);
}

// Leaves in s.bins the sums of measure(id, logit), for each value of the digit, over the tokens
// whose keys begin with the digits found so far.
template <class Measure>
__device__ void SumDigit(Shared& s, const Tokens& t, const Measure& measure, int digit,
                         uint32_t prefix) {
  for (int i = threadIdx.x; i < kBins; i += kThreads) s.bins.low[i] = s.bins.high[i] = 0;
  __syncthreads();
  const int shift = Shift(digit);
  const int prefix_shift = digit == 0 ? 0 : Shift(digit - 1);
  const uint32_t mask = digit == 0 ? kBins - 1 : (1u << (prefix_shift - shift)) - 1;
  ForEach(t, [&](int id, float logit) {
    const uint32_t key = OrderKey(logit);
    if (digit > 0 && key >> prefix_shift != prefix) return;
    const uint64_t v = measure(id, logit);
    if (v > 0) AddToBin(s, key >> shift & mask, v);
  });
  __syncthreads();
}

// The bin at which the sum from the top reaches wanted_of(the sum over all), to s.found; what it
// has to give, to s.left, and what it holds, to s.held.
template <class WantedOf>
__device__ void FindBin(Shared& s, const WantedOf& wanted_of) {
  const int top = kBins - 1 - 2 * threadIdx.x;
  uint64_t held[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    held[i] = uint64_t{s.bins.high[top - i]} << 32 | s.bins.low[top - i];
  }
  const Sums sums = SumUp(s, held[0] + held[1]);
  const uint64_t wanted = wanted_of(sums.total);
  uint64_t before = sums.before;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (before < wanted && wanted <= before + held[i]) {
      s.found = top - i;
      s.left = wanted - before;
      s.held = held[i];
    }
    before += held[i];
  }
  __syncthreads();
}

// The fewest tokens, from the largest logit down and of equal ones from the lowest id up, whose
// measures add up to wanted_of(the sum over all).
template <class Measure, class WantedOf>
__device__ Limit FindLimit(Shared& s, const Tokens& t, const Measure& measure,
                           const WantedOf& wanted_of) {
  uint64_t left = 0;
  uint32_t prefix = 0;
  for (int digit = 0; digit < kDigits; ++digit) {
    SumDigit(s, t, measure, digit, prefix);
    FindBin(s, [&](uint64_t total) { return digit == 0 ? wanted_of(total) : left; });
    left = s.left;
    prefix = digit == 0 ? s.found : prefix << (Shift(digit - 1) - Shift(digit)) | s.found;
    if (left == s.held) return {prefix << Shift(digit), t.limit};  // the whole bin
  }
  const auto of_ties = [&](int id, float logit) {
    return OrderKey(logit) == prefix ? measure(id, logit) : 0;
  };
  const int32_t last = FindId(s, t, of_ties, [left](uint64_t) { return left - 1; });
  return {prefix, last + 1};
}

// The weight of a token; 0 if it cannot be chosen.
struct Weights {
  float largest;
  float scale;
  uint64_t least;
  Limit top_k;
  Limit top_p;

  __device__ uint64_t operator()(int id, float logit) const {
    if (!Within(top_k, id, logit) || !Within(top_p, id, logit)) return 0;
    const uint64_t weight = WeightOf(logit, largest, scale);
    return weight >= least ? weight : 0;
  }
};

__device__ int32_t Draw(Shared& s, const Tokens& t, float largest) {
  const SamplingRow& row = t.row;
  Weights weights = {largest, WeightScale(row.temperature), LeastWeight(row.min_p)};
  if (row.top_k > 0) {
    const auto one = [&](int id, float logit) { return uint64_t{weights(id, logit) > 0}; };
    weights.top_k = FindLimit(
        s, t, one, [&](uint64_t total) { return min(total, static_cast<uint64_t>(row.top_k)); });
  }
  if (row.top_p < 1) {
    weights.top_p =
        FindLimit(s, t, weights, [&](uint64_t total) { return TopPMass(row.top_p, total); });
  }
  const double uniform = UniformAt(row.seed, row.position);
  return FindId(s, t, weights, [&](uint64_t total) { return DrawTarget(uniform, total); });
}

// Marks the tokens with an edit.
__device__ void MarkEdited(Shared& s, const Tokens& t) {
  for (int i = threadIdx.x; i < (t.limit + 31) / 32; i += kThreads) s.edited[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < t.edit_count; i += kThreads) {
    const int32_t token = t.edits[i].token;
    atomicOr(&s.edited[token / 32], 1u << token % 32);
  }
  __syncthreads();
}

__device__ int32_t Choose(Shared& s, const SampleParams& p, Tokens t, Best best) {
  if (t.row.edits > 0) {
    t.edited = s.edited;
    t.edits = p.edits + t.row.first_edit;
    t.edit_count = t.row.edits;
    MarkEdited(s, t);
    best = FindBest(s, t);
    if (best.broken) return kOverflow;
    if (best.logit == kMasked) return kNothingLeft;
  }
  return t.row.temperature == 0 ? best.id : Draw(s, t, best.logit);
}

// The logarithm of the sum of all weights, as a multiple of the largest logit's.
__device__ double LogMass(Shared& s, const Tokens& t, float largest) {
  const float scale = WeightScale(1.0f);
  uint64_t sum = 0;
  ForEach(t, [&](int, float logit) { sum += WeightOf(logit, largest, scale); });
  return log(static_cast<double>(SumUp(s, sum).total) * 0x1p-44);
}

// The largest logits above -inf, as many as the row wants, to tokens and logprobs; then -1.
__device__ void WriteTop(Shared& s, const Tokens& t, float largest, double log_mass,
                         int32_t* tokens, float* logprobs) {
  const auto one = [](int, float logit) { return uint64_t{logit > kMasked}; };
  const Limit limit = FindLimit(s, t, one, [&](uint64_t total) {
    return min(total, static_cast<uint64_t>(t.row.top_logprobs));
  });
  if (threadIdx.x == 0) s.count = 0;
  __syncthreads();
  ForEach(t, [&](int id, float logit) {
    if (logit == kMasked || !Within(limit, id, logit)) return;
    const int at = atomicAdd(&s.count, 1);
    s.top_keys[at] = OrderKey(logit);
    s.top_tokens[at] = id;
  });
  __syncthreads();
  const int i = threadIdx.x;
  if (i < kMaxTopLogprobs && i >= s.count) tokens[i] = -1;
  if (i >= s.count) return;
  int before = 0;
  for (int j = 0; j < s.count; ++j) {
    before += s.top_keys[j] > s.top_keys[i] ||
              (s.top_keys[j] == s.top_keys[i] && s.top_tokens[j] < s.top_tokens[i]);
  }
  tokens[before] = s.top_tokens[i];
  logprobs[before] = Logprob(FromOrderKey(s.top_keys[i]), largest, log_mass);
}

__device__ void WriteLogprobs(Shared& s, const SampleParams& p, const Tokens& t, float largest,
                              int32_t token) {
  const double log_mass = LogMass(s, t, largest);
  const int64_t r = blockIdx.x;
  if (threadIdx.x == 0) p.logprobs[r] = Logprob(t.logits[token], largest, log_mass);
  if (t.row.top_logprobs == 0) return;
  WriteTop(s, t, largest, log_mass, p.top_tokens + r * kMaxTopLogprobs,
           p.top_logprobs + r * kMaxTopLogprobs);
}

__device__ int32_t TokenOf(Shared& s, const SampleParams& p, const Tokens& t, const Best& best) {
  if (best.broken) return kBrokenLogit;
  if (best.logit == kMasked) return kNothingLeft;
  return t.row.forced >= 0 ? t.row.forced : Choose(s, p, t, best);
}

__global__ __launch_bounds__(kThreads) void SampleKernel(const SampleParams p) {
  extern __shared__ uint4 memory[];
  auto& s = *reinterpret_cast<Shared*>(memory);
  const int64_t r = blockIdx.x;
  float* logits = static_cast<float*>(p.logits.data) + r * p.logits.stride;
  for (int i = threadIdx.x; i < p.missing_count; i += kThreads) logits[p.missing[i]] = kMasked;
  __syncthreads();
  Tokens t = {.logits = logits, .limit = p.limit};
  if (p.rows != nullptr) t.row = p.rows[r];
  const Best best = FindBest(s, t);
  const int32_t token = TokenOf(s, p, t, best);
  if (threadIdx.x == 0) p.tokens[r] = token;
  if (token >= 0 && t.row.top_logprobs >= 0) WriteLogprobs(s, p, t, best.logit, token);
}

}  // namespace

void LaunchSample(const SampleParams& p, cudaStream_t stream) {
  BALEEN_CHECK(p.logits.dtype == DType::kF32 && p.limit <= p.logits.cols);
  BALEEN_CHECK_MSG(p.limit >= 1 && p.limit <= kMaxVocabulary, "a thread has one segment's sum");
  if (p.logits.rows == 0) return;
  BALEEN_CUDA_CHECK(cudaFuncSetAttribute(SampleKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(sizeof(Shared))));
  SampleKernel<<<p.logits.rows, kThreads, sizeof(Shared), stream>>>(p);
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

}  // namespace baleen::kernels::cuda
