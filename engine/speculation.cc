#include "engine/speculation.h"

#include "common/status_macros.h"

namespace baleen::engine {

absl::StatusOr<int> WalkDrafts(std::span<const int32_t> drafts,
                               const std::function<absl::StatusOr<Choice>(int row)>& choose) {
  const int last = static_cast<int>(drafts.size());
  for (int row = 0;; ++row) {
    BALEEN_ASSIGN_OR_RETURN(const Choice choice, choose(row));
    if (row == last || choice.token != drafts[row] || choice.ends) return row + 1;
  }
}

}  // namespace baleen::engine
