#pragma once

#include <algorithm>
#include <vector>

#include "kernels/tensor.h"

namespace baleen::kernels::cpu {

// Neighbouring rows of one sequence, which read the same cache pages.
struct RowRun {
  int64_t begin;
  int count;
  int32_t sequence;
  int64_t last_position;  // the largest of the rows
};

// Cuts the rows into runs of at most `max_rows`, into `runs` (reused, so that it stops growing).
inline const std::vector<RowRun>& CutIntoRuns(const RowMap& rows, int max_rows,
                                              std::vector<RowRun>& runs) {
  runs.clear();
  for (int r = 0; r < rows.rows; ++r) {
    const int32_t sequence = rows.sequences[r];
    const int64_t position = rows.positions[r];
    if (!runs.empty() && runs.back().sequence == sequence && runs.back().count < max_rows) {
      ++runs.back().count;
      runs.back().last_position = std::max(runs.back().last_position, position);
    } else {
      runs.push_back({r, 1, sequence, position});
    }
  }
  return runs;
}

}  // namespace baleen::kernels::cpu
