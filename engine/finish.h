#pragma once

#include <cstdint>

#include "model/sampling.h"

namespace baleen::engine {

enum class FinishReason : uint8_t {
  kNone,
  kStop,    // EOS or a stop id
  kLength,  // max_new_tokens or the context limit
};

// Whether a sequence ends with `token`, its `generated`th new one (1 for the first), when it then
// has `length` tokens in all. A stop wins over a limit reached by the same token.
FinishReason FinishAfter(int32_t token, int generated, int length, int max_context,
                         const model::SamplingParams& params, const model::Vocabulary& vocabulary);

}  // namespace baleen::engine
