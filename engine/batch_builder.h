#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/ids.h"
#include "model/forward.h"

namespace baleen::engine {

// Collects the row lists of one model::Batch. Keeps its memory from step to step.
class BatchBuilder {
 public:
  void Clear();

  // Starts the next sequence; later AddRow calls belong to it. `pages` is copied.
  void AddSequence(std::span<const PageId> pages);
  // Positions of a sequence must be gapless, and inside its pages.
  void AddRow(int32_t token, int32_t position);

  int rows() const { return static_cast<int>(tokens_.size()); }
  int sequences() const { return static_cast<int>(page_counts_.size()); }

  // Valid until the next change.
  model::Batch batch();

 private:
  std::vector<int32_t> tokens_, positions_, sequences_;
  std::vector<int32_t> pages_;        // of all sequences, one after the other
  std::vector<int32_t> page_counts_;  // of each sequence
  std::vector<int32_t> page_table_;   // [sequences, stride], made by batch()
};

}  // namespace baleen::engine
