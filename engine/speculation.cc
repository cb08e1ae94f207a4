#include "engine/speculation.h"

#include "common/status_macros.h"

namespace baleen::engine {

absl::StatusOr<Accepted> WalkDrafts(std::span<const int32_t> drafts,
                                    const std::function<absl::StatusOr<Choice>(int row)>& choose) {
  Accepted walk;
  for (int row = 0; row <= static_cast<int>(drafts.size()); ++row) {
    BALEEN_ASSIGN_OR_RETURN(const Choice choice, choose(row));
    ++walk.emitted;
    const bool hit = row < static_cast<int>(drafts.size()) && choice.token == drafts[row];
    if (hit) ++walk.accepted;
    if (!hit || choice.ends) break;
  }
  return walk;
}

}  // namespace baleen::engine
