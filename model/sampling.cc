#include "model/sampling.h"

#include <algorithm>

namespace baleen::model {

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

}  // namespace baleen::model
