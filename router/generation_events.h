#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/clock.h"

namespace baleen::router {

// Of one token, in natural logarithms.
struct TokenLogprob {
  uint32_t token = 0;
  float logprob = 0;
  std::vector<std::pair<uint32_t, float>> top;  // descending
};

// The tokens of one decode step, in order; a stop token is included as the last one.
struct TokenStep {
  std::vector<uint32_t> tokens;
  std::vector<TokenLogprob> logprobs;         // one a token, when asked for
  std::vector<TokenLogprob> prompt_logprobs;  // with the first token, when asked for
  int cached_tokens = 0;                      // of the prompt, as far as prefill has said
  TimePoint received;
};

enum class TokenFinish : uint8_t { kStop, kLength };

struct FinishInfo {
  TokenFinish reason = TokenFinish::kStop;
  int new_tokens = 0;
  int cached_tokens = 0;
  int steps = 0;
  int accepted_drafts = 0;
};

// Receives what one dispatched request produces. Any thread, one call at a time for tokens; exactly
// one of OnFinished and OnError is meant to be last, but OnTokens may race with OnError: whatever
// comes after the last must be ignored. Never called after Cancel of the request returned, except
// for a call already under way.
class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  virtual void OnTokens(TokenStep step) = 0;
  virtual void OnFinished(const FinishInfo& info) = 0;
  virtual void OnError(absl::Status status) = 0;
};

}  // namespace baleen::router
