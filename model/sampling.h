#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
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

}  // namespace baleen::model
