// Sample.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/sampling_math.h"

namespace baleen::kernels::cpu {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

struct Candidate {
  uint64_t weight;
  float logit;
  int32_t token;
};

bool Before(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

// +inf when a logit is broken.
float Largest(const float* logits, int limit) {
  float largest = kMasked;
  bool broken = false;
  for (int i = 0; i < limit; ++i) {
    broken |= Broken(logits[i]);
    largest = logits[i] > largest ? logits[i] : largest;
  }
  return broken ? -kMasked : largest;
}

// The logarithm of the sum of all weights, as a multiple of the largest logit's.
double LogMass(const float* logits, int limit, float largest) {
  const float scale = WeightScale(1.0f);
  uint64_t sum = 0;
  for (int i = 0; i < limit; ++i) sum += WeightOf(logits[i], largest, scale);
  return std::log(static_cast<double>(sum) * 0x1p-44);
}

// The `wanted` largest logits above -inf to tokens and logprobs, then -1 without a number.
void WriteTop(const float* logits, int limit, int wanted, float largest, double log_mass,
              int32_t* tokens, float* logprobs) {
  Candidate top[kMaxTopLogprobs];
  int count = 0;
  for (int i = 0; i < limit; ++i) {
    const Candidate c = {0, logits[i], i};
    if (c.logit == kMasked || (count == wanted && !Before(c, top[wanted - 1]))) continue;
    int at = std::min(count, wanted - 1);
    for (; at > 0 && Before(c, top[at - 1]); --at) top[at] = top[at - 1];
    top[at] = c;
    count = std::min(count + 1, wanted);
  }
  std::fill(tokens, tokens + kMaxTopLogprobs, -1);
  for (int i = 0; i < count; ++i) {
    tokens[i] = top[i].token;
    logprobs[i] = Logprob(top[i].logit, largest, log_mass);
  }
}

// How many of the candidates, in the order of Before, have a weight of `wanted` together. Brings
// these to the front. Widens its guess until it is enough, then halves.
size_t CountOfMass(Candidate* candidates, size_t count, uint64_t wanted) {
  size_t begin = 0;
  size_t end = count;
  while (end - begin > 1) {
    const size_t middle = begin + std::min((end - begin) / 2, 4 * begin + 256);
    std::nth_element(candidates + begin, candidates + middle, candidates + end, Before);
    uint64_t mass = 0;
    for (size_t i = begin; i < middle; ++i) mass += candidates[i].weight;
    if (mass >= wanted) {
      end = middle;
    } else {
      wanted -= mass;
      begin = middle;
    }
  }
  return end;
}

uint64_t Mass(const Candidate* candidates, size_t count) {
  uint64_t sum = 0;
  for (size_t i = 0; i < count; ++i) sum += candidates[i].weight;
  return sum;
}

// Leaves the candidates of top_k and top_p, in ascending id order; returns how many.
size_t Restrict(const SamplingRow& row, Candidate* candidates, size_t count) {
  const bool limit_k = row.top_k > 0 && static_cast<size_t>(row.top_k) < count;
  if (!limit_k && row.top_p >= 1) return count;
  if (limit_k) {
    std::nth_element(candidates, candidates + row.top_k, candidates + count, Before);
    count = row.top_k;
  }
  if (row.top_p < 1) {
    count = CountOfMass(candidates, count, TopPMass(row.top_p, Mass(candidates, count)));
  }
  std::sort(candidates, candidates + count,
            [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
  return count;
}

int32_t Draw(const SamplingRow& row, const Candidate* candidates, size_t count) {
  const uint64_t target = DrawTarget(UniformAt(row.seed, row.position), Mass(candidates, count));
  uint64_t sum = 0;
  size_t i = 0;
  while ((sum += candidates[i].weight) <= target) ++i;
  return candidates[i].token;
}

// `candidates` has room for `limit`.
int32_t Choose(const SamplingRow& row, const float* logits, int limit, float largest,
               Candidate* candidates) {
  if (row.temperature == 0) {
    return static_cast<int32_t>(std::find(logits, logits + limit, largest) - logits);
  }
  const float scale = WeightScale(row.temperature);
  const uint64_t least = LeastWeight(row.min_p);
  size_t count = 0;
  for (int i = 0; i < limit; ++i) {
    const uint64_t weight = WeightOf(logits[i], largest, scale);
    candidates[count] = {weight, logits[i], i};
    count += weight >= least;
  }
  return Draw(row, candidates, Restrict(row, candidates, count));
}

// A copy of the row's logits after its edits.
const float* Edit(const SampleParams& p, const SamplingRow& row, const float* logits,
                  Scratch& scratch) {
  float* edited = scratch.scores.Get<float>(p.limit);
  std::copy(logits, logits + p.limit, edited);
  for (int i = row.first_edit; i < row.first_edit + row.edits; ++i) {
    float& logit = edited[p.edits[i].token];
    logit = EditedLogit(logit, p.edits[i], row);
  }
  return edited;
}

void WriteLogprobs(const SampleParams& p, const SamplingRow& row, int64_t r, const float* logits,
                   float largest) {
  if (p.tokens[r] < 0 || row.top_logprobs < 0) return;
  const double log_mass = LogMass(logits, p.limit, largest);
  p.logprobs[r] = Logprob(logits[p.tokens[r]], largest, log_mass);
  if (row.top_logprobs == 0) return;
  WriteTop(logits, p.limit, row.top_logprobs, largest, log_mass, p.top_tokens + r * kMaxTopLogprobs,
           p.top_logprobs + r * kMaxTopLogprobs);
}

int32_t TokenOf(const SampleParams& p, const SamplingRow& row, const float* logits, float largest,
                Scratch& scratch) {
  if (Broken(largest)) return kBrokenLogit;
  if (largest == kMasked) return kNothingLeft;
  if (row.forced >= 0) return row.forced;
  if (row.edits > 0) {
    logits = Edit(p, row, logits, scratch);
    largest = Largest(logits, p.limit);
    if (Broken(largest)) return kOverflow;
    if (largest == kMasked) return kNothingLeft;
  }
  return Choose(row, logits, p.limit, largest, scratch.keys.Get<Candidate>(p.limit));
}

void SampleRow(const SampleParams& p, int64_t r, Scratch& scratch) {
  const SamplingRow row = p.rows != nullptr ? p.rows[r] : SamplingRow{};
  BALEEN_CHECK(row.forced < p.limit && row.top_logprobs <= kMaxTopLogprobs);
  float* logits = p.logits.row<float>(r);
  for (int i = 0; i < p.missing_count; ++i) logits[p.missing[i]] = kMasked;
  const float largest = Largest(logits, p.limit);
  p.tokens[r] = TokenOf(p, row, logits, largest, scratch);
  WriteLogprobs(p, row, r, logits, largest);
}

}  // namespace

void CpuBackend::Sample(const SampleParams& p) {
  BALEEN_CHECK(p.logits.dtype == DType::kF32 && p.limit <= p.logits.cols);
  BALEEN_CHECK(p.limit >= 1 && p.limit <= kMaxVocabulary);
  ForEachRow(p.logits.rows, int64_t{10} * p.limit,
             [&](Scratch& scratch, int64_t r) { SampleRow(p, r, scratch); });
}

}  // namespace baleen::kernels::cpu
