#include "engine/finish.h"

#include <algorithm>

namespace baleen::engine {

FinishReason FinishAfter(int32_t token, int generated, int length, int max_context,
                         const model::SamplingParams& params, const model::Vocabulary& vocabulary) {
  const std::vector<int32_t>& stops = params.stop_token_ids;
  if (std::find(stops.begin(), stops.end(), token) != stops.end()) return FinishReason::kStop;
  if (!params.ignore_eos && vocabulary.IsEos(token)) return FinishReason::kStop;
  if (generated >= params.max_new_tokens || length >= max_context) return FinishReason::kLength;
  return FinishReason::kNone;
}

}  // namespace baleen::engine
