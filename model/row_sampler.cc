#include "model/row_sampler.h"

#include "common/check.h"

namespace baleen::model {
namespace {

using kernels::kMaxTopLogprobs;
using kernels::LogitEdit;
using kernels::SamplingRow;

// Every token of the vocabulary may be edited once for each sequence.
size_t MaxEdits(const SamplingLimits& l) { return size_t(l.max_sequences) * l.vocabulary.limit; }

size_t Aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

// Hands out parts of `base`, or counts them.
class Parts {
 public:
  explicit Parts(std::byte* base) : base_(base) {}
  template <typename T>
  T* Next(size_t count) {
    std::byte* at = base_ + used_;
    used_ += Aligned(count * sizeof(T));
    return reinterpret_cast<T*>(at);
  }
  size_t used() const { return used_; }

 private:
  std::byte* const base_;
  size_t used_ = 0;
};

}  // namespace

size_t RowSampler::Bytes(const SamplingLimits& l) {
  const size_t rows = l.max_rows;
  return Aligned(rows * sizeof(SamplingRow)) + Aligned(MaxEdits(l) * sizeof(LogitEdit)) +
         Aligned(l.vocabulary.missing.size() * sizeof(int32_t)) +
         2 * Aligned(rows * sizeof(int32_t)) +
         2 * Aligned(rows * kMaxTopLogprobs * sizeof(int32_t));
}

RowSampler::RowSampler(kernels::Backend& backend, SamplingLimits limits)
    : backend_(backend), limits_(std::move(limits)), device_(backend, Bytes(limits_)) {
  BALEEN_CHECK_MSG(device_.data() != nullptr, "no memory for sampling, which was planned");
  const size_t rows = limits_.max_rows;
  const std::vector<int32_t>& missing = limits_.vocabulary.missing;
  Parts parts(device_.data());
  rows_ = parts.Next<SamplingRow>(rows);
  edits_ = parts.Next<LogitEdit>(MaxEdits(limits_));
  missing_ = parts.Next<int32_t>(missing.size());
  tokens_ = parts.Next<int32_t>(rows);
  logprobs_ = parts.Next<float>(rows);
  top_tokens_ = parts.Next<int32_t>(rows * kMaxTopLogprobs);
  top_logprobs_ = parts.Next<float>(rows * kMaxTopLogprobs);
  BALEEN_CHECK(parts.used() == device_.bytes());
  if (missing.empty()) return;
  backend_.CopyIn(missing_, missing.data(), missing.size() * sizeof(int32_t));
  backend_.Synchronize();
}

void RowSampler::Upload(const SamplingBatch& batch) {
  if (batch.rows() > 0) backend_.CopyIn(rows_, batch.rows_.data(), batch.rows_.bytes());
  if (batch.edits_.empty()) return;
  backend_.CopyIn(edits_, batch.edits_.data(), batch.edits_.size() * sizeof(LogitEdit));
}

void RowSampler::Sample(const kernels::Matrix& logits, int first) {
  BALEEN_CHECK(first + logits.rows <= limits_.max_rows);
  const int64_t top = int64_t{first} * kMaxTopLogprobs;
  backend_.Sample({.logits = logits,
                   .limit = limits_.vocabulary.limit,
                   .missing = missing_,
                   .missing_count = static_cast<int>(limits_.vocabulary.missing.size()),
                   .rows = rows_ + first,
                   .edits = edits_,
                   .tokens = tokens_ + first,
                   .logprobs = logprobs_ + first,
                   .top_tokens = top_tokens_ + top,
                   .top_logprobs = top_logprobs_ + top});
}

void RowSampler::Greedy(const kernels::Matrix& logits, int32_t* tokens) {
  backend_.Sample({.logits = logits,
                   .limit = limits_.vocabulary.limit,
                   .missing = missing_,
                   .missing_count = static_cast<int>(limits_.vocabulary.missing.size()),
                   .tokens = tokens});
}

void RowSampler::Download(SamplingBatch& batch) {
  const size_t rows = size_t(batch.rows());
  if (rows == 0) return;
  backend_.CopyOut(batch.tokens_.data(), tokens_, rows * sizeof(int32_t));
  if (!batch.any_logprobs_) return;
  const size_t top = rows * kMaxTopLogprobs;
  backend_.CopyOut(batch.logprobs_.data(), logprobs_, rows * sizeof(float));
  backend_.CopyOut(batch.top_tokens_.data(), top_tokens_, top * sizeof(int32_t));
  backend_.CopyOut(batch.top_logprobs_.data(), top_logprobs_, top * sizeof(float));
}

}  // namespace baleen::model
