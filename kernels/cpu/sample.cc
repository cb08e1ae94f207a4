// Sample: a thread for each row.
#include <algorithm>
#include <limits>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/sampling_math.h"

namespace baleen::kernels::cpu {
namespace {

using namespace sampling;  // NOLINT: the arithmetic

constexpr float kMasked = -std::numeric_limits<float>::infinity();

struct Candidate {
  uint32_t order;  // of its logit
  int32_t token;
  uint64_t weight;

  bool operator<(const Candidate& other) const {  // comes before: the larger, ties the lower id
    return order != other.order ? order > other.order : token < other.token;
  }
};

// The first of the largest logits, or limit.
int32_t Largest(const float* logits, int limit) {
  int32_t best = limit;
  float largest = kMasked;
  for (int32_t t = 0; t < limit; ++t) {
    if (!(logits[t] > largest)) continue;
    largest = logits[t];
    best = t;
  }
  return best;
}

bool AnyBroken(const float* logits, int limit) {
  bool broken = false;
  for (int t = 0; t < limit; ++t) broken |= Broken(logits[t]);
  return broken;
}

uint64_t Mass(const Candidate* candidates, size_t count) {
  uint64_t mass = 0;
  for (size_t i = 0; i < count; ++i) mass += candidates[i].weight;
  return mass;
}

// Brings the heaviest candidates to the front and says how many of them reach `wanted`. Sorts as
// many as needed, not the whole vocabulary.
size_t CountReaching(uint64_t wanted, Candidate* candidates, size_t count) {
  uint64_t mass = 0;
  size_t sorted = 0;
  for (size_t step = 256; sorted < count; step *= 4) {
    const size_t end = std::min(sorted + step, count);
    std::partial_sort(candidates + sorted, candidates + end, candidates + count);
    for (; sorted < end; ++sorted) {
      mass += candidates[sorted].weight;
      if (mass >= wanted) return sorted + 1;
    }
  }
  return count;
}

// Cuts the candidates to those of top_k and top_p; they end in ascending id order.
size_t Cut(const SamplingRow& row, Candidate* candidates, size_t count) {
  const bool limit_k = row.top_k > 0 && size_t(row.top_k) < count;
  if (!limit_k && row.top_p >= 1) return count;
  if (limit_k) {
    std::nth_element(candidates, candidates + row.top_k, candidates + count);
    count = row.top_k;
  }
  if (row.top_p < 1) {
    count = CountReaching(WantedMass(row.top_p, Mass(candidates, count)), candidates, count);
  }
  std::sort(candidates, candidates + count,
            [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
  return count;
}

// A token by its weight among the edited logits.
int32_t Draw(const SamplingRow& row, const float* logits, int limit, float largest,
             Scratch& scratch) {
  auto* candidates = scratch.keys.Get<Candidate>(limit);
  const uint64_t least = LeastWeight(row.min_p);
  size_t count = 0;
  for (int32_t t = 0; t < limit; ++t) {
    const uint64_t weight = WeightOf(logits[t], largest, row.temperature);
    if (weight >= least) candidates[count++] = {OrderOf(logits[t]), t, weight};
  }
  count = Cut(row, candidates, count);
  uint64_t left = DrawnMass(RandomBits(row.seed, row.position), Mass(candidates, count));
  const Candidate* at = candidates;
  for (; left >= at->weight; ++at) left -= at->weight;
  return at->token;
}

int32_t Choose(const SamplingRow& row, const float* logits, int limit, Scratch& scratch) {
  const int32_t best = Largest(logits, limit);
  if (best == limit) return AnyBroken(logits, limit) ? kOverflow : kNothingLeft;
  if (Broken(logits[best])) return kOverflow;
  return row.temperature == 0 ? best : Draw(row, logits, limit, logits[best], scratch);
}

// Chooses among the edited logits and takes the edits back.
int32_t ChooseEdited(const SampleParams& p, const SamplingRow& row, float* logits,
                     Scratch& scratch) {
  const LogitEdit* edits = p.edits + row.first_edit;
  auto* originals = scratch.middle.Get<float>(row.edits);
  for (int e = 0; e < row.edits; ++e) {
    float& logit = logits[edits[e].token];
    originals[e] = logit;
    logit = Edited(logit, edits[e], row);
  }
  const int32_t token = Choose(row, logits, p.limit, scratch);
  for (int e = 0; e < row.edits; ++e) logits[edits[e].token] = originals[e];
  return token;
}

void Logprobs(const SampleParams& p, int64_t r, const SamplingRow& row, const float* logits,
              Scratch& scratch) {
  const int32_t best = Largest(logits, p.limit);
  uint64_t total = 0;
  for (int t = 0; t < p.limit; ++t) total += WeightOf(logits[t], logits[best], 1);
  const double log_sum = LogSum(logits[best], total);
  p.logprobs[r] = static_cast<float>(logits[p.tokens[r]] - log_sum);

  auto* candidates = scratch.keys.Get<Candidate>(p.limit);
  size_t count = 0;
  for (int32_t t = 0; t < p.limit; ++t) {
    if (logits[t] > kMasked) candidates[count++] = {OrderOf(logits[t]), t, 0};
  }
  const size_t top = std::min<size_t>(row.top_logprobs, count);
  std::partial_sort(candidates, candidates + top, candidates + count);
  for (size_t i = 0; i < kMaxTopLogprobs; ++i) {
    const int64_t at = r * kMaxTopLogprobs + i;
    p.top_tokens[at] = i < top ? candidates[i].token : -1;
    p.top_logprobs[at] =
        i < top ? static_cast<float>(logits[candidates[i].token] - log_sum) : kMasked;
  }
}

void SampleRow(const SampleParams& p, int64_t r, const SamplingRow& row, Scratch& scratch) {
  float* logits = p.logits.row<float>(r);
  for (int i = 0; i < p.missing_count; ++i) logits[p.missing[i]] = kMasked;
  if (AnyBroken(logits, p.limit)) {
    p.tokens[r] = kBrokenLogit;
    return;
  }
  if (Largest(logits, p.limit) == p.limit) {
    p.tokens[r] = kNothingLeft;
    return;
  }
  p.tokens[r] = row.forced >= 0 ? row.forced : ChooseEdited(p, row, logits, scratch);
  if (p.tokens[r] >= 0 && row.top_logprobs >= 0) Logprobs(p, r, row, logits, scratch);
}

}  // namespace

void CpuBackend::Sample(const SampleParams& p) {
  BALEEN_CHECK(p.limit > 0 && p.limit <= p.logits.cols && p.logits.dtype == DType::kF32);
  ForEachRow(p.logits.rows, int64_t{20} * p.limit, [&](Scratch& scratch, int64_t r) {
    SampleRow(p, r, p.rows != nullptr ? p.rows[r] : SamplingRow{}, scratch);
  });
}

}  // namespace baleen::kernels::cpu
