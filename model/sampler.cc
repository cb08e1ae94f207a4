#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "model/philox.h"

namespace baleen::model {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

// A logit that no healthy forward pass makes. -inf is legal: a token that cannot be.
bool Broken(float logit) {
  return std::isnan(logit) || logit == std::numeric_limits<float>::infinity();
}

absl::Status CheckLogits(std::span<const float> logits) {
  for (size_t i = 0; i < logits.size(); ++i) {
    if (Broken(logits[i])) {
      return absl::InternalError(absl::StrCat("logit of token ", i, " is ", logits[i]));
    }
  }
  return absl::OkStatus();
}

}  // namespace

bool Vocabulary::IsEos(int32_t token) const {
  return std::find(eos_ids.begin(), eos_ids.end(), token) != eos_ids.end();
}

TokenHistory::TokenHistory(const SamplingParams& params, std::span<const int32_t> prompt)
    : track_(params.has_penalties()), track_prompt_(params.repetition_penalty != 1) {
  AddPrompt(prompt);
}

void TokenHistory::AddPrompt(std::span<const int32_t> tokens) {
  if (!track_prompt_) return;
  for (int32_t token : tokens) seen_[token].in_prompt = true;
}

void TokenHistory::Add(int32_t token) {
  ++generated_;
  if (track_) ++seen_[token].generated;
}

double UniformAt(uint64_t seed, uint64_t position) {
  const auto bits = Philox4x32({uint32_t(position), uint32_t(position >> 32), 0, 0},
                               {uint32_t(seed), uint32_t(seed >> 32)});
  const uint64_t word = uint64_t{bits[1]} << 32 | bits[0];
  return static_cast<double>(word >> 11) * 0x1p-53;
}

absl::StatusOr<int32_t> Sampler::Sample(std::span<const float> logits, const SamplingParams& params,
                                        const TokenHistory& history, int position) {
  BALEEN_RETURN_IF_ERROR(Process(logits, params, history));
  const int32_t best = Argmax();
  if (best < 0) return absl::InternalError("no token is left to choose from");
  if (!std::isfinite(logits_[best])) {
    return absl::InternalError(
        absl::StrCat("penalties made the logit of token ", best, " infinite"));
  }
  if (params.greedy()) return best;
  Filter(params);
  return Draw(UniformAt(params.seed, static_cast<uint64_t>(position)));
}

absl::Status Sampler::Process(std::span<const float> logits, const SamplingParams& params,
                              const TokenHistory& history) {
  BALEEN_CHECK(logits.size() >= static_cast<size_t>(vocabulary_.limit));
  const auto known = logits.first(vocabulary_.limit);
  BALEEN_RETURN_IF_ERROR(CheckLogits(known));
  logits_.assign(known.begin(), known.end());
  for (int32_t token : vocabulary_.missing) Mask(token);
  for (const auto& [token, bias] : params.logit_bias) {
    if (token < vocabulary_.limit) logits_[token] += bias;
  }
  Penalize(params, history);
  if (history.generated() < params.min_new_tokens) {
    for (int32_t token : vocabulary_.eos_ids) Mask(token);
    for (int32_t token : params.stop_token_ids) Mask(token);
  }
  return absl::OkStatus();
}

void Sampler::Penalize(const SamplingParams& params, const TokenHistory& history) {
  for (const auto& [token, seen] : history.seen()) {
    if (token < 0 || token >= vocabulary_.limit) continue;
    float& logit = logits_[token];
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (seen.generated == 0) continue;
    logit -= params.frequency_penalty * static_cast<float>(seen.generated);
    logit -= params.presence_penalty;
  }
}

void Sampler::Mask(int32_t token) {
  if (token >= 0 && token < vocabulary_.limit) logits_[token] = kMasked;
}

int32_t Sampler::Argmax() const {
  int32_t best = -1;
  float largest = kMasked;
  for (int32_t token = 0; token < vocabulary_.limit; ++token) {
    if (logits_[token] > largest) {
      largest = logits_[token];
      best = token;
    }
  }
  return best;
}

bool Sampler::Heavier(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
}

// Leaves in candidates_ the tokens that may be chosen, with weight exp(logit / temperature - max).
void Sampler::Filter(const SamplingParams& params) {
  const float largest = *std::max_element(logits_.begin(), logits_.end());
  candidates_.clear();
  for (int32_t token = 0; token < vocabulary_.limit; ++token) {
    const float weight = std::exp((logits_[token] - largest) / params.temperature);
    if (weight > 0 && weight >= params.min_p) candidates_.push_back({weight, token});
  }
  const bool limit_k = params.top_k > 0 && size_t(params.top_k) < candidates_.size();
  if (!limit_k && params.top_p >= 1) return;
  if (limit_k) {
    std::nth_element(candidates_.begin(), candidates_.begin() + params.top_k, candidates_.end(),
                     Heavier);
    candidates_.resize(params.top_k);
  }
  if (params.top_p < 1) candidates_.resize(TopPCount(params.top_p));
  std::sort(candidates_.begin(), candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
}

// Brings the heaviest candidates to the front and says how many of them reach `top_p` of the mass.
// Sorts as many as needed, not the whole vocabulary.
size_t Sampler::TopPCount(double top_p) {
  double total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  double mass = 0;
  size_t sorted = 0;
  for (size_t step = 256; sorted < candidates_.size(); step *= 4) {
    const size_t end = std::min(sorted + step, candidates_.size());
    std::partial_sort(candidates_.begin() + sorted, candidates_.begin() + end, candidates_.end(),
                      Heavier);
    for (; sorted < end; ++sorted) {
      mass += candidates_[sorted].weight;
      if (mass >= top_p * total) return sorted + 1;
    }
  }
  return candidates_.size();
}

int32_t Sampler::Draw(double uniform) const {
  double total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  double left = uniform * total;
  for (const Candidate& c : candidates_) {
    left -= c.weight;
    if (left < 0) return c.token;
  }
  return candidates_.back().token;  // rounding ate the last sliver
}

absl::StatusOr<TokenLogprobs> Sampler::Logprobs(std::span<const float> logits, int32_t token,
                                                int top) {
  BALEEN_CHECK(logits.size() >= static_cast<size_t>(vocabulary_.limit));
  BALEEN_CHECK(token >= 0 && static_cast<size_t>(token) < logits.size());
  const auto known = logits.first(vocabulary_.limit);
  BALEEN_RETURN_IF_ERROR(CheckLogits(known));
  logits_.assign(known.begin(), known.end());
  for (int32_t missing : vocabulary_.missing) Mask(missing);
  const float largest = *std::max_element(logits_.begin(), logits_.end());
  double sum = 0;
  for (float logit : logits_) sum += std::exp(static_cast<double>(logit) - largest);
  const double log_sum = largest + std::log(sum);

  TokenLogprobs result{.token = token, .logprob = static_cast<float>(logits[token] - log_sum)};
  candidates_.clear();
  for (int32_t t = 0; t < vocabulary_.limit; ++t) {
    if (logits_[t] != kMasked) candidates_.push_back({logits_[t], t});
  }
  const size_t count = std::min<size_t>(top, candidates_.size());
  std::partial_sort(candidates_.begin(), candidates_.begin() + count, candidates_.end(), Heavier);
  for (size_t i = 0; i < count; ++i) {
    result.top_tokens.push_back(candidates_[i].token);
    result.top_logprobs.push_back(static_cast<float>(candidates_[i].weight - log_sum));
  }
  return result;
}

}  // namespace baleen::model
