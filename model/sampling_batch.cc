#include "model/sampling_batch.h"

#include <algorithm>

#include "common/check.h"

namespace baleen::model {

using kernels::kMaxTopLogprobs;
using kernels::LogitEdit;

SamplingBatch::SamplingBatch(kernels::Backend& backend, const SamplingLimits& limits)
    : vocabulary_(limits.vocabulary),
      rows_(backend, size_t(limits.max_rows)),
      tokens_(backend, size_t(limits.max_rows)),
      top_tokens_(backend, size_t(limits.max_rows) * kMaxTopLogprobs),
      logprobs_(backend, size_t(limits.max_rows)),
      top_logprobs_(backend, size_t(limits.max_rows) * kMaxTopLogprobs) {}

void SamplingBatch::Clear() {
  rows_.Clear();
  edits_.clear();
  any_logprobs_ = false;
}

void SamplingBatch::AddSequence(const SamplingParams& params, const TokenHistory& history,
                                int position, std::span<const int32_t> drafts) {
  const int first_edit = static_cast<int>(edits_.size());
  edit_of_.clear();
  AddBias(params);
  AddHistory(history);
  if (params.has_penalties()) {
    for (size_t d = 0; d < drafts.size(); ++d)
      if (Known(drafts[d])) EditOf(drafts[d]).drafted |= 1u << d;
  }
  MaskEnds(params, params.min_new_tokens - history.generated());
  AddRows(params, first_edit, position, 1 + static_cast<int>(drafts.size()));
}

void SamplingBatch::AddFollower(const SamplingParams& params, int rows) {
  const int first_edit = static_cast<int>(edits_.size());
  edit_of_.clear();
  AddBias(params);
  AddRows(params, first_edit, /*position=*/0, rows);
}

void SamplingBatch::AddRows(const SamplingParams& params, int first_edit, int position, int rows) {
  any_logprobs_ = any_logprobs_ || params.top_logprobs.has_value();
  for (int j = 0; j < rows; ++j) {
    rows_.Append(1, {.seed = params.seed,
                     .position = position + j,
                     .first_edit = first_edit,
                     .edits = static_cast<int32_t>(edits_.size()) - first_edit,
                     .drafts = j,
                     .top_logprobs = params.top_logprobs.value_or(-1),
                     .top_k = params.top_k,
                     .temperature = params.greedy() ? 0 : params.temperature,
                     .top_p = params.top_p,
                     .min_p = params.min_p,
                     .repetition_penalty = params.repetition_penalty,
                     .frequency_penalty = params.frequency_penalty,
                     .presence_penalty = params.presence_penalty});
  }
}

void SamplingBatch::AddKnown(int32_t token, int top) {
  rows_.Append(1, {.forced = token, .top_logprobs = top});
  any_logprobs_ = true;
}

// The edit of a token for the sequence being added.
LogitEdit& SamplingBatch::EditOf(int32_t token) {
  const auto [at, added] = edit_of_.try_emplace(token, static_cast<int>(edits_.size()));
  if (added) edits_.push_back({.token = token});
  return edits_[size_t(at->second)];
}

void SamplingBatch::AddBias(const SamplingParams& params) {
  for (const auto& [token, bias] : params.logit_bias)
    if (Known(token)) EditOf(token).bias += bias;
}

void SamplingBatch::AddHistory(const TokenHistory& history) {
  for (const auto& [token, seen] : history.seen()) {
    if (!Known(token)) continue;
    LogitEdit& edit = EditOf(token);
    edit.generated = seen.generated;
    edit.in_prompt = seen.in_prompt;
  }
}

// The first `rows` rows of the sequence cannot end it.
void SamplingBatch::MaskEnds(const SamplingParams& params, int rows) {
  if (rows <= 0) return;
  for (const auto* ids : {&vocabulary_.eos_ids, &params.stop_token_ids}) {
    for (const int32_t token : *ids)
      if (Known(token)) EditOf(token).masked_rows = static_cast<uint8_t>(std::min(rows, 255));
  }
}

absl::Status SamplingBatch::StatusOf(int row) const {
  switch (TokenOf(row)) {
    case kernels::kBrokenLogit:
      return absl::InternalError("a logit is NaN or infinite");
    case kernels::kNothingLeft:
      return absl::InternalError("no token is left to choose from");
    case kernels::kOverflow:
      return absl::InternalError("penalties made a logit infinite");
  }
  return absl::OkStatus();
}

std::optional<TokenLogprobs> SamplingBatch::LogprobsOf(int row) const {
  const int top = rows_[size_t(row)].top_logprobs;
  if (top < 0) return std::nullopt;
  TokenLogprobs result = {.token = TokenOf(row), .logprob = logprobs_[size_t(row)]};
  const size_t first = size_t(row) * kMaxTopLogprobs;
  for (size_t i = first; i < first + size_t(top); ++i) {
    if (top_tokens_[i] < 0) break;
    result.top_tokens.push_back(top_tokens_[i]);
    result.top_logprobs.push_back(top_logprobs_[i]);
  }
  return result;
}

}  // namespace baleen::model
