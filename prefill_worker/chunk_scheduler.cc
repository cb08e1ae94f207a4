#include "prefill_worker/chunk_scheduler.h"

#include <algorithm>
#include <numeric>

#include "common/kv_layout.h"

namespace baleen::prefill_worker {
namespace {

// Fills one batch; the budget is in rows at context 0.
class Planner {
 public:
  Planner(std::span<const ChunkCandidate> candidates, const ChunkLimits& limits)
      : candidates_(candidates),
        limits_(limits),
        budget_(limits.rows),
        taken_(candidates.size(), 0) {}

  // Gives candidate `i` up to `budget` rows (context-0 rows) more, at most what is left.
  void Take(int i, int64_t budget) {
    const ChunkCandidate& c = candidates_[i];
    const int64_t first = c.computed + taken_[i];
    const int64_t left = c.total - first;
    budget = std::min(budget, budget_);
    if (left <= 0 || budget <= 0) return;
    if (taken_[i] == 0 && sequences_ == limits_.sequences) return;
    int64_t rows = RowsAtContext(static_cast<int>(budget), first);
    if (rows < left) rows = std::max<int64_t>(rows / kPageTokens * kPageTokens, Minimum());
    rows = std::min(rows, left);
    if (rows == 0) return;
    sequences_ += taken_[i] == 0;
    taken_[i] += rows;
    rows_ += rows;
    budget_ -= Cost(rows, first);
  }

  int64_t budget() const { return budget_; }
  std::vector<Chunk> Chunks() const {
    std::vector<Chunk> chunks;
    for (size_t i = 0; i < candidates_.size(); ++i)
      if (taken_[i] > 0)
        chunks.push_back(
            {static_cast<int>(i), candidates_[i].computed, static_cast<int>(taken_[i])});
    return chunks;
  }

 private:
  // The first chunk of a batch is at least a page, or no progress is made.
  int64_t Minimum() const { return rows_ == 0 ? std::min<int64_t>(kPageTokens, limits_.rows) : 0; }
  int64_t Cost(int64_t rows, int64_t context) const {
    return (rows * (kDoubleContext + context) + kDoubleContext - 1) / kDoubleContext;
  }

  const std::span<const ChunkCandidate> candidates_;
  const ChunkLimits limits_;
  int64_t budget_;
  int64_t rows_ = 0;
  int sequences_ = 0;
  std::vector<int64_t> taken_;
};

}  // namespace

int RowsAtContext(int rows, int64_t context) {
  return static_cast<int>(int64_t{rows} * kDoubleContext / (kDoubleContext + context));
}

std::vector<Chunk> PlanBatch(std::span<const ChunkCandidate> candidates,
                             const ChunkLimits& limits) {
  if (candidates.empty()) return {};
  Planner planner(candidates, limits);
  planner.Take(0, candidates.size() == 1 ? limits.rows : std::max(1, limits.rows * 3 / 4));

  std::vector<int> by_rest(candidates.size());
  std::iota(by_rest.begin(), by_rest.end(), 0);
  std::stable_sort(by_rest.begin(), by_rest.end(), [&](int a, int b) {
    return candidates[a].total - candidates[a].computed <
           candidates[b].total - candidates[b].computed;
  });
  for (int i : by_rest)
    if (i != 0) planner.Take(i, planner.budget());
  planner.Take(0, planner.budget());
  return planner.Chunks();
}

}  // namespace baleen::prefill_worker
