#include "model/row_sampler.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace baleen::model {
namespace {

using kernels::kMaxTopLogprobs;
using kernels::LogitEdit;
using kernels::SamplingRow;

// Every token of the vocabulary may be edited once for each sequence.
size_t MaxEdits(const RowSampler::Options& o) {
  return size_t(o.max_sequences) * o.vocabulary.limit;
}

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

size_t RowSampler::Bytes(const Options& o) {
  const size_t rows = o.max_rows;
  return Aligned(rows * sizeof(SamplingRow)) + Aligned(MaxEdits(o) * sizeof(LogitEdit)) +
         Aligned(o.vocabulary.missing.size() * sizeof(int32_t)) +
         2 * Aligned(rows * sizeof(int32_t)) +
         2 * Aligned(rows * kMaxTopLogprobs * sizeof(int32_t));
}

RowSampler::RowSampler(kernels::Backend& backend, Options options)
    : backend_(backend), options_(std::move(options)), device_(backend, Bytes(options_)) {
  BALEEN_CHECK_MSG(device_.data() != nullptr, "no memory for sampling, which was planned");
  const size_t rows = options_.max_rows;
  const std::vector<int32_t>& missing = options_.vocabulary.missing;
  Parts parts(device_.data());
  device_rows_ = parts.Next<SamplingRow>(rows);
  device_edits_ = parts.Next<LogitEdit>(MaxEdits(options_));
  device_missing_ = parts.Next<int32_t>(missing.size());
  results_ = {.tokens = parts.Next<int32_t>(rows),
              .logprobs = parts.Next<float>(rows),
              .top_tokens = parts.Next<int32_t>(rows * kMaxTopLogprobs),
              .top_logprobs = parts.Next<float>(rows * kMaxTopLogprobs)};
  BALEEN_CHECK(parts.used() == device_.bytes());
  if (!missing.empty()) {
    backend_.CopyIn(device_missing_, missing.data(), missing.size() * sizeof(int32_t));
    backend_.Synchronize();
  }
  host_tokens_.resize(rows);
  host_logprobs_.resize(rows);
  host_top_tokens_.resize(rows * kMaxTopLogprobs);
  host_top_logprobs_.resize(rows * kMaxTopLogprobs);
}

void RowSampler::Clear() {
  rows_.clear();
  edits_.clear();
  any_logprobs_ = false;
}

void RowSampler::AddSequence(const SamplingParams& params, const TokenHistory& history,
                             int position, std::span<const int32_t> drafts) {
  const int first_edit = static_cast<int>(edits_.size());
  AddEdits(params, history, drafts);
  SamplingRow row = {.seed = params.seed,
                     .position = position,
                     .first_edit = first_edit,
                     .edits = static_cast<int32_t>(edits_.size()) - first_edit,
                     .top_logprobs = params.top_logprobs.value_or(-1),
                     .top_k = params.top_k,
                     .temperature = params.greedy() ? 0 : params.temperature,
                     .top_p = params.top_p,
                     .min_p = params.min_p,
                     .repetition_penalty = params.repetition_penalty,
                     .frequency_penalty = params.frequency_penalty,
                     .presence_penalty = params.presence_penalty};
  any_logprobs_ = any_logprobs_ || params.top_logprobs.has_value();
  for (size_t j = 0; j <= drafts.size(); ++j) {
    rows_.push_back(row);
    ++row.position;
    ++row.drafts;
  }
  BALEEN_CHECK(rows_.size() <= size_t(options_.max_rows));
}

void RowSampler::AddKnown(int32_t token, int top) {
  rows_.push_back({.forced = token, .top_logprobs = top});
  any_logprobs_ = true;
  BALEEN_CHECK(rows_.size() <= size_t(options_.max_rows));
}

void RowSampler::AddGreedy(int rows) {
  rows_.resize(rows_.size() + rows);
  BALEEN_CHECK(rows_.size() <= size_t(options_.max_rows));
}

// The edit of a token for the sequence being added.
LogitEdit& RowSampler::EditOf(int32_t token) {
  const auto [at, added] = edit_of_.try_emplace(token, static_cast<int>(edits_.size()));
  if (added) edits_.push_back({.token = token});
  return edits_[at->second];
}

void RowSampler::AddEdits(const SamplingParams& params, const TokenHistory& history,
                          std::span<const int32_t> drafts) {
  edit_of_.clear();
  const int limit = options_.vocabulary.limit;
  const auto known = [limit](int32_t token) { return token >= 0 && token < limit; };
  for (const auto& [token, bias] : params.logit_bias) {
    if (known(token)) EditOf(token).bias += bias;
  }
  for (const auto& [token, seen] : history.seen()) {
    if (!known(token)) continue;
    LogitEdit& edit = EditOf(token);
    edit.generated = seen.generated;
    edit.in_prompt = seen.in_prompt;
  }
  if (params.has_penalties()) {
    for (size_t d = 0; d < drafts.size(); ++d) {
      if (known(drafts[d])) EditOf(drafts[d]).drafted |= 1u << d;
    }
  }
  MaskEnds(params, params.min_new_tokens - history.generated());
}

// The first `rows` rows of the sequence cannot end it.
void RowSampler::MaskEnds(const SamplingParams& params, int rows) {
  if (rows <= 0) return;
  for (const auto* ids : {&options_.vocabulary.eos_ids, &params.stop_token_ids}) {
    for (const int32_t token : *ids) {
      if (token < 0 || token >= options_.vocabulary.limit) continue;
      EditOf(token).masked_rows = static_cast<uint8_t>(std::min(rows, 255));
    }
  }
}

void RowSampler::Upload() {
  if (!rows_.empty()) {
    backend_.CopyIn(device_rows_, rows_.data(), rows_.size() * sizeof(SamplingRow));
  }
  if (!edits_.empty()) {
    backend_.CopyIn(device_edits_, edits_.data(), edits_.size() * sizeof(LogitEdit));
  }
}

void RowSampler::Sample(const kernels::Matrix& logits, int first) {
  BALEEN_CHECK(first + logits.rows <= options_.max_rows);
  const int64_t top = int64_t{first} * kMaxTopLogprobs;
  backend_.Sample({.logits = logits,
                   .limit = options_.vocabulary.limit,
                   .missing = device_missing_,
                   .missing_count = static_cast<int>(options_.vocabulary.missing.size()),
                   .rows = device_rows_ + first,
                   .edits = device_edits_,
                   .tokens = results_.tokens + first,
                   .logprobs = results_.logprobs + first,
                   .top_tokens = results_.top_tokens + top,
                   .top_logprobs = results_.top_logprobs + top});
}

void RowSampler::Greedy(const kernels::Matrix& logits, int32_t* tokens) {
  backend_.Sample({.logits = logits,
                   .limit = options_.vocabulary.limit,
                   .missing = device_missing_,
                   .missing_count = static_cast<int>(options_.vocabulary.missing.size()),
                   .tokens = tokens});
}

void RowSampler::Download() {
  const size_t rows = rows_.size();
  if (rows == 0) return;
  backend_.CopyOut(host_tokens_.data(), results_.tokens, rows * sizeof(int32_t));
  if (!any_logprobs_) return;
  const size_t top = rows * kMaxTopLogprobs;
  backend_.CopyOut(host_logprobs_.data(), results_.logprobs, rows * sizeof(float));
  backend_.CopyOut(host_top_tokens_.data(), results_.top_tokens, top * sizeof(int32_t));
  backend_.CopyOut(host_top_logprobs_.data(), results_.top_logprobs, top * sizeof(float));
}

absl::Status RowSampler::StatusOf(int row) const {
  switch (host_tokens_[row]) {
    case kernels::kBrokenLogit:
      return absl::InternalError("a logit is NaN or infinite");
    case kernels::kNothingLeft:
      return absl::InternalError("no token is left to choose from");
    case kernels::kOverflow:
      return absl::InternalError("penalties made a logit infinite");
  }
  return absl::OkStatus();
}

std::optional<TokenLogprobs> RowSampler::LogprobsOf(int row) const {
  const int top = rows_[row].top_logprobs;
  if (top < 0) return std::nullopt;
  TokenLogprobs result = {.token = host_tokens_[row], .logprob = host_logprobs_[row]};
  for (int i = row * kMaxTopLogprobs; i < row * kMaxTopLogprobs + top; ++i) {
    if (host_top_tokens_[i] < 0) break;
    result.top_tokens.push_back(host_top_tokens_[i]);
    result.top_logprobs.push_back(host_top_logprobs_[i]);
  }
  return result;
}

}  // namespace baleen::model
