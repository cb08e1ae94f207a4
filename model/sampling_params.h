#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace baleen::model {

// How tokens are chosen; the plain form of proto/sampling.proto (defaults are the same).
struct SamplingParams {
  int max_new_tokens = 16;
  int min_new_tokens = 0;    // EOS and stop ids cannot be chosen before
  float temperature = 1.0f;  // below kGreedyTemperature: greedy
  float top_p = 1.0f;
  int top_k = 0;  // 0: all
  float min_p = 0.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  float repetition_penalty = 1.0f;
  std::vector<std::pair<int32_t, float>> logit_bias;  // (token, added to its logit)
  uint64_t seed = 0;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;          // EOS is a token like any other
  std::optional<int> top_logprobs;  // absent: no logprobs; 0: of the chosen token only
  bool prompt_logprobs = false;

  static constexpr float kGreedyTemperature = 1e-5f;
  static constexpr int kMaxTopLogprobs = 20;
  bool greedy() const { return temperature < kGreedyTemperature; }
  bool has_penalties() const {
    return presence_penalty != 0 || frequency_penalty != 0 || repetition_penalty != 1;
  }
};

// InvalidArgument names the field; NaN is refused everywhere.
absl::Status Validate(const SamplingParams& params, int vocab_size);

}  // namespace baleen::model
