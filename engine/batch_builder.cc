#include "engine/batch_builder.h"

#include <algorithm>

#include "common/check.h"
#include "common/kv_layout.h"

namespace baleen::engine {

void BatchBuilder::Clear() {
  tokens_.clear();
  positions_.clear();
  sequences_.clear();
  pages_.clear();
  page_counts_.clear();
}

void BatchBuilder::AddSequence(std::span<const PageId> pages) {
  for (PageId page : pages) pages_.push_back(page.value);
  page_counts_.push_back(static_cast<int32_t>(pages.size()));
}

void BatchBuilder::AddRow(int32_t token, int32_t position) {
  BALEEN_CHECK(!page_counts_.empty());
  BALEEN_CHECK_MSG(position >= 0 && position < int64_t{page_counts_.back()} * kPageTokens,
                   "row outside the pages of its sequence");
  const int32_t sequence = sequences() - 1;
  const bool continues = !sequences_.empty() && sequences_.back() == sequence;
  BALEEN_CHECK(!continues || position == positions_.back() + 1);
  tokens_.push_back(token);
  positions_.push_back(position);
  sequences_.push_back(sequence);
}

model::Batch BatchBuilder::batch() {
  int32_t stride = 0;
  for (int32_t count : page_counts_) stride = std::max(stride, count);
  page_table_.assign(size_t(stride) * page_counts_.size(), 0);
  auto from = pages_.begin();
  auto to = page_table_.begin();
  for (int32_t count : page_counts_) {
    std::copy_n(from, count, to);
    from += count;
    to += stride;
  }
  return {.tokens = tokens_,
          .positions = positions_,
          .sequences = sequences_,
          .page_table = page_table_,
          .page_table_stride = stride};
}

}  // namespace baleen::engine
