#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/sampling.h"

namespace baleen::worker {

// The parts of Handoff's record whose meaning only the workers know: prefill writes them, decode
// reads them, kv_transfer carries them.

// HandoffRecord::prompt_hash and KvReceiver::GrantRequest::prompt_hash: of the token ids. Never 0.
uint64_t PromptHash(std::span<const int32_t> prompt);

// HandoffRecord::logprobs.
struct HandoffLogprobs {
  std::optional<model::TokenLogprobs> first;  // of the first token, when asked for
  // When asked for: of prompt tokens 1, 2, ... (the first one has none).
  std::vector<model::TokenLogprobs> prompt;
};
// "" when there is nothing in it.
std::string Encode(const HandoffLogprobs& logprobs);
absl::StatusOr<HandoffLogprobs> DecodeHandoffLogprobs(const std::string& bytes);

}  // namespace baleen::worker
