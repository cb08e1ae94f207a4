// AcceptDrafts, DraftRows, FollowRows (3.8): a few integers a sequence, on the caller's thread.
#include <algorithm>

#include "kernels/cpu/cpu_backend.h"

namespace baleen::kernels::cpu {

void CpuBackend::AcceptDrafts(const AcceptDraftsParams& p) {
  BALEEN_CHECK(p.rows.rows == p.sequences * p.per_sequence);
  for (int r = 0; r < p.rows.rows; ++r) p.next_tokens[r] = std::max(p.chosen[r], 0);
  for (int s = 0; s < p.sequences; ++s) {
    int last = s * p.per_sequence;
    const int end = last + p.per_sequence;
    while (last + 1 < end && p.rows.sequences[last + 1] != p.rows.empty_sequence &&
           p.chosen[last] == p.tokens[last + 1]) {
      ++last;
    }
    p.last_rows[s] = last;
    p.newest_tokens[s] = p.next_tokens[last];
    p.newest_positions[s] = p.rows.positions[last] + 1;
  }
}

void CpuBackend::FollowRows(const FollowRowsParams& p) {
  for (int s = 0; s < p.sequences; ++s) {
    const int32_t from = p.follows[s];
    if (from < 0) continue;
    for (int j = 0; j < p.per_sequence; ++j) {
      const int row = s * p.per_sequence + j;
      const int32_t position = p.newest_positions[from] + j;
      const bool empty = position >= p.slots[s];
      p.tokens[row] = j == 0 ? p.newest_tokens[from]
                             : std::max(p.drafts[int64_t{j - 1} * p.drafts_stride + from], 0);
      p.positions[row] = empty ? 0 : position;
      p.row_sequences[row] = empty ? p.empty_sequence : s;
      p.sampling[row].position = position + 1;
    }
  }
}

void CpuBackend::DraftRows(const DraftRowsParams& p) {
  for (int s = 0; s < p.sequences; ++s) {
    const int32_t last = p.last_rows[s];
    const int32_t position = p.rows.positions[last] + p.ahead;
    const bool empty = p.rows.sequences[last] == p.rows.empty_sequence || position >= p.slots[s];
    p.tokens[s] = std::max(p.drafts[s], 0);
    p.positions[s] = empty ? 0 : position;
    p.row_sequences[s] = empty ? p.rows.empty_sequence : p.rows.sequences[last];
  }
}

}  // namespace baleen::kernels::cpu
