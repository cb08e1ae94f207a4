// IndexerLogits (3.4): a page's keys are turned into columns once for a run of rows; the products
// of a row's heads with them go through ReLU and head weights without leaving the registers.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/cache_rows.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/row_runs.h"

namespace baleen::kernels::cpu {
namespace {

constexpr int kPagesPerItem = 8;
constexpr int kRowsPerItem = 32;

// The queries of a run's rows as f32, [rows * heads, dim].
const float* ReadQueries(const IndexerLogitsParams& p, const RowRun& run, int dim,
                         ScratchBuffer& buffer) {
  const int64_t width = int64_t{p.heads} * dim;
  if (p.q8.data == nullptr && p.q.dtype == DType::kF32 && p.q.stride == width) {
    return p.q.row<float>(run.begin);
  }
  float* q = buffer.Get<float>(run.count * width);
  for (int r = 0; r < run.count; ++r) {
    float* row = q + r * width;
    if (p.q8.data != nullptr) {  // scales are in the weights already
      simd::DecodeE4m3(p.q8.data + (run.begin + r) * width, width, 1.0f, row);
    } else {
      std::memcpy(row, p.q.row<float>(run.begin + r), width * sizeof(float));
    }
  }
  return q;
}

void LogitsOfPage(const IndexerLogitsParams& p, const RowRun& run, const float* q, int64_t page,
                  Scratch& scratch) {
  const int dim = p.cache.layout.index_dim;
  const bool exact = p.cache.layout.numerics == Numerics::kExact;
  const int64_t first = page * kPageTokens;
  const int keys = static_cast<int>(std::min<int64_t>(kPageTokens, run.last_position + 1 - first));
  const TokenSlot slot = SlotOf(p.cache, p.rows, run.sequence, first);
  const float* k = reinterpret_cast<const float*>(IndexKey(p.cache, slot));
  if (!exact) {
    float* decoded = scratch.keys.Get<float>(int64_t{kPageTokens} * dim);
    simd::DecodeE4m3(reinterpret_cast<const uint8_t*>(IndexKey(p.cache, slot)), int64_t{keys} * dim,
                     1.0f, decoded);
    k = decoded;
  }
  float* columns = scratch.scores.Get<float>(int64_t{kPageTokens} * dim);
  simd::TransposeKeys(k, keys, dim, columns);
  const float* scales = exact ? nullptr : IndexScale(p.cache, slot);
  for (int r = 0; r < run.count; ++r) {
    const int64_t row = run.begin + r;
    const int64_t visible = std::min<int64_t>(p.rows.positions[row] + 1 - first, kPageTokens);
    if (visible <= 0) continue;
    float scores[kPageTokens];
    simd::ScoreKeys(q + int64_t{r} * p.heads * dim, p.heads, dim, columns,
                    p.weights + row * p.heads, scores);
    float* logits = p.logits + row * p.logits_stride + first;
    for (int s = 0; s < visible; ++s) logits[s] = exact ? scores[s] : scores[s] * scales[s];
  }
}

}  // namespace

void CpuBackend::IndexerLogits(const IndexerLogitsParams& p) {
  const int dim = p.cache.layout.index_dim;
  if (p.q8.data != nullptr) {
    CheckQuantized(p.q8, p.rows.rows, p.heads * dim);
    BALEEN_CHECK(dim == kQuantGroup && p.cache.layout.numerics == Numerics::kFp8);
  } else {
    BALEEN_CHECK(p.q.cols == p.heads * dim && p.q.dtype == DType::kF32);
    BALEEN_CHECK(p.cache.layout.numerics == Numerics::kExact);
  }
  const std::vector<RowRun>& runs = CutIntoRuns(p.rows, kRowsPerItem, runs_);
  // An item is a run of rows and some pages: one decode row over a long context is shared too.
  int64_t most_pages = 0;
  int64_t macs = 0;
  for (const RowRun& run : runs) {
    BALEEN_CHECK(run.last_position < p.logits_stride);
    most_pages = std::max(most_pages, PagesFor(run.last_position + 1));
    macs += (run.last_position + 1) * run.count * p.heads * dim;
  }
  const int64_t parts = (most_pages + kPagesPerItem - 1) / kPagesPerItem;
  pool_.ParallelFor(static_cast<int64_t>(runs.size()) * parts, macs, [&](int worker, int64_t item) {
    const RowRun& run = runs[item / parts];
    if (run.sequence == p.rows.empty_sequence) return;
    const int64_t begin = item % parts * kPagesPerItem;
    const int64_t end = std::min(begin + kPagesPerItem, PagesFor(run.last_position + 1));
    if (begin >= end) return;
    Scratch& scratch = scratch_[worker];
    const float* q = ReadQueries(p, run, dim, scratch.input);
    for (int64_t page = begin; page < end; ++page) LogitsOfPage(p, run, q, page, scratch);
  });
}

}  // namespace baleen::kernels::cpu
