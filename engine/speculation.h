#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "absl/status/statusor.h"

namespace baleen::engine {

// Rule (c) of section 3.8 of docs/model.md. choose(i) samples the token after row i (row 0 holds
// the last known token, row i draft i) from the target distribution, given that drafts 1..i were
// accepted, records it, and says whether the sequence ends with it. Walks upward and stops at the
// first token that differs from its draft, or ends. The law of what is emitted is the target's for
// any drafts whatsoever. Returns how many tokens were chosen, 1 ... drafts + 1.
struct Choice {
  int32_t token = 0;
  bool ends = false;
};
absl::StatusOr<int> WalkDrafts(std::span<const int32_t> drafts,
                               const std::function<absl::StatusOr<Choice>(int row)>& choose);

}  // namespace baleen::engine
