#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "model/sampling_params.h"

namespace baleen::model {

// Which ids of the head's output are tokens, and which of them end an answer.
struct Vocabulary {
  int limit = 0;                 // ids from here on have no token
  std::vector<int32_t> missing;  // ids below `limit` without a token
  std::vector<int32_t> eos_ids;

  bool IsEos(int32_t token) const;
};

// Tokens seen so far, as the penalties need them. Empty and free of cost unless `params` has
// penalties.
class TokenHistory {
 public:
  TokenHistory() = default;
  TokenHistory(const SamplingParams& params, std::span<const int32_t> prompt);

  // More tokens of the prompt.
  void AddPrompt(std::span<const int32_t> tokens);
  // A token was chosen.
  void Add(int32_t token);
  int generated() const { return generated_; }  // calls of Add, counted always

  struct Seen {
    bool in_prompt = false;
    int generated = 0;
  };
  const absl::flat_hash_map<int32_t, Seen>& seen() const { return seen_; }

 private:
  bool track_ = false;         // generated tokens
  bool track_prompt_ = false;  // the prompt's
  int generated_ = 0;
  absl::flat_hash_map<int32_t, Seen> seen_;
};

struct TokenLogprobs {
  int32_t token = 0;
  float logprob = 0;
  std::vector<int32_t> top_tokens;  // descending; ties: lower id first
  std::vector<float> top_logprobs;  // same length
};

// Turns a row of logits into a token. Host arithmetic in f32 with f64 sums; independent of batch,
// rank, drafts and replay, because the only randomness is Philox4x32-10 with key = seed and
// counter = the token's index in the sequence.
//
// Order: logits (f32) -> ids without a token masked -> logit bias -> repetition penalty (prompt and
// generated tokens), frequency and presence penalty (generated tokens) -> EOS and stop ids masked
// before min_new_tokens -> greedy: argmax, ties to the lower id. Otherwise / temperature -> softmax
// -> min_p (relative to the largest) -> top_k -> top_p (smallest set whose mass, of what is left,
// reaches top_p; ties to the lower id) -> inverse of the cumulative distribution, in ascending id
// order, at one uniform number.
//
// Threads: one caller (holds scratch).
class Sampler {
 public:
  explicit Sampler(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}

  // The token with index `position` in its sequence (the row of position - 1 gave `logits`, which
  // has at least vocabulary().limit entries). Internal when a logit is NaN or +inf, or nothing is
  // left to choose from.
  absl::StatusOr<int32_t> Sample(std::span<const float> logits, const SamplingParams& params,
                                 const TokenHistory& history, int position);

  // Logarithms of the softmax over all ids that have a token, of the raw logits: before bias,
  // penalties and temperature, as OpenAI and vLLM report them. `top` >= 0.
  absl::StatusOr<TokenLogprobs> Logprobs(std::span<const float> logits, int32_t token, int top);

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  struct Candidate {
    float weight;
    int32_t token;
  };
  static bool Heavier(const Candidate& a, const Candidate& b);
  absl::Status Process(std::span<const float> logits, const SamplingParams& params,
                       const TokenHistory& history);
  void Penalize(const SamplingParams& params, const TokenHistory& history);
  void Mask(int32_t token);
  int32_t Argmax() const;
  void Filter(const SamplingParams& params);
  size_t TopPCount(double top_p);
  int32_t Draw(double uniform) const;

  Vocabulary vocabulary_;
  std::vector<float> logits_;          // processed
  std::vector<Candidate> candidates_;  // what is left to choose from
};

// The uniform number in [0, 1) of token index `position` under `seed` (53 bits).
double UniformAt(uint64_t seed, uint64_t position);

}  // namespace baleen::model
