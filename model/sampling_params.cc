#include "model/sampling_params.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace baleen::model {
namespace {

// False for NaN.
bool Within(float value, float low, float high) { return value >= low && value <= high; }

absl::Status Bad(absl::string_view field, absl::string_view want) {
  return absl::InvalidArgumentError(absl::StrCat(field, " must be ", want));
}

absl::Status ValidateTokens(const SamplingParams& p, int vocab_size) {
  const auto known = [vocab_size](int32_t t) { return t >= 0 && t < vocab_size; };
  for (const auto& [token, bias] : p.logit_bias) {
    if (!known(token)) return Bad("logit_bias", "of token ids of the model");
    if (!Within(bias, -100, 100)) return Bad("logit_bias", "between -100 and 100");
  }
  for (int32_t token : p.stop_token_ids) {
    if (!known(token)) return Bad("stop_token_ids", "token ids of the model");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Validate(const SamplingParams& p, int vocab_size) {
  if (p.max_new_tokens < 1) return Bad("max_new_tokens", "at least 1");
  if (p.min_new_tokens < 0 || p.min_new_tokens > p.max_new_tokens) {
    return Bad("min_new_tokens", "between 0 and max_new_tokens");
  }
  if (!Within(p.temperature, 0, 100)) return Bad("temperature", "between 0 and 100");
  if (!(p.top_p > 0 && p.top_p <= 1)) return Bad("top_p", "above 0 and at most 1");
  if (p.top_k < 0) return Bad("top_k", "0 (all) or positive");
  if (!Within(p.min_p, 0, 1)) return Bad("min_p", "between 0 and 1");
  if (!Within(p.presence_penalty, -2, 2)) return Bad("presence_penalty", "between -2 and 2");
  if (!Within(p.frequency_penalty, -2, 2)) return Bad("frequency_penalty", "between -2 and 2");
  if (!Within(p.repetition_penalty, 0.01, 10)) {
    return Bad("repetition_penalty", "between 0.01 and 10");
  }
  if (p.top_logprobs.has_value() &&
      (*p.top_logprobs < 0 || *p.top_logprobs > SamplingParams::kMaxTopLogprobs)) {
    return Bad("top_logprobs", "between 0 and 20");
  }
  return ValidateTokens(p, vocab_size);
}

}  // namespace baleen::model
