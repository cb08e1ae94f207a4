#include "engine/prefill_step.h"

#include <algorithm>

#include "common/check.h"
#include "common/kv_layout.h"

namespace baleen::engine {
namespace {

using Hidden = model::Forward::Hidden;

int PromptEnd(const PrefillChunk& chunk) {
  return chunk.first_position + static_cast<int>(chunk.tokens.size());
}

// The token at the position after row `row` of the chunk.
int32_t TokenAfter(const PrefillChunk& chunk, size_t row, int32_t first_token) {
  if (row + 1 < chunk.tokens.size()) return chunk.tokens[row + 1];
  return chunk.last ? first_token : chunk.next_token;
}

}  // namespace

PrefillStep::PrefillStep(model::Forward& forward, Options options)
    : forward_(forward), options_(std::move(options)), sampler_(options_.vocabulary) {
  BALEEN_CHECK(options_.drafts >= 0 && options_.max_head_rows > 0);
  BALEEN_CHECK(options_.drafts == 0 || !options_.shard.last() || options_.shard.mtp);
}

std::vector<PrefillResult> PrefillStep::Run(std::span<const PrefillChunk> chunks) {
  batch_.Clear();
  for (const PrefillChunk& chunk : chunks) {
    BALEEN_CHECK(!chunk.tokens.empty());
    batch_.AddSequence(chunk.pages);
    for (size_t i = 0; i < chunk.tokens.size(); ++i) {
      batch_.AddRow(chunk.tokens[i], chunk.first_position + static_cast<int>(i));
    }
  }
  BALEEN_CHECK(batch_.rows() <= options_.max_rows);
  forward_.RunLayers(batch_.batch());
  if (!options_.shard.last()) return {};

  std::vector<PrefillResult> results(chunks.size());
  int row = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    results[i].id = chunks[i].id;
    if (chunks[i].sampling.prompt_logprobs) PromptLogprobs(chunks[i], row, results[i]);
    row += static_cast<int>(chunks[i].tokens.size());
    if (chunks[i].last && results[i].status.ok()) SampleFirst(chunks[i], row - 1, results[i]);
  }
  if (options_.drafts > 0) RunDrafts(chunks, results);
  return results;
}

void PrefillStep::SampleFirst(const PrefillChunk& chunk, int row, PrefillResult& result) {
  model::TokenHistory history(chunk.sampling, chunk.earlier_tokens);
  history.AddPrompt(chunk.tokens);
  const int32_t rows[] = {row};
  const std::span<const float> logits = forward_.Logits(Hidden::kMain, rows);
  const auto token = sampler_.Sample(logits, chunk.sampling, history, PromptEnd(chunk));
  if (!token.ok()) {
    result.status = token.status();
    return;
  }
  result.first_token = *token;
  result.finished = true;
  if (!chunk.sampling.top_logprobs.has_value()) return;
  auto logprobs = sampler_.Logprobs(logits, *token, *chunk.sampling.top_logprobs);
  BALEEN_CHECK(logprobs.ok());  // Sample has looked at the same row
  result.logprobs = *std::move(logprobs);
}

void PrefillStep::PromptLogprobs(const PrefillChunk& chunk, int first_row, PrefillResult& result) {
  const int top = chunk.sampling.top_logprobs.value_or(0);
  const int count = static_cast<int>(chunk.tokens.size()) - (chunk.last ? 1 : 0);
  for (int begin = 0; begin < count; begin += options_.max_head_rows) {
    const int end = std::min(begin + options_.max_head_rows, count);
    head_rows_.clear();
    for (int row = begin; row < end; ++row) head_rows_.push_back(first_row + row);
    const std::span<const float> logits = forward_.Logits(Hidden::kMain, head_rows_);
    const size_t width = logits.size() / head_rows_.size();
    for (int row = begin; row < end; ++row) {
      auto logprobs = sampler_.Logprobs(logits.subspan((row - begin) * width, width),
                                        TokenAfter(chunk, row, 0), top);
      if (!logprobs.ok()) {
        result.status = logprobs.status();
        return;
      }
      result.prompt_logprobs.push_back(*std::move(logprobs));
    }
  }
}

// Step 1 of section 3.8 over all rows of the batch, then one row more a sequence for each further
// draft.
void PrefillStep::RunDrafts(std::span<const PrefillChunk> chunks,
                            std::vector<PrefillResult>& results) {
  batch_.Clear();
  hidden_rows_.clear();
  head_rows_.clear();
  drafting_.clear();
  for (size_t i = 0; i < chunks.size(); ++i) {
    const PrefillChunk& chunk = chunks[i];
    batch_.AddSequence(chunk.pages);
    for (size_t row = 0; row < chunk.tokens.size(); ++row) {
      hidden_rows_.push_back(batch_.rows());
      batch_.AddRow(TokenAfter(chunk, row, results[i].first_token),
                    chunk.first_position + static_cast<int>(row));
    }
    if (!results[i].finished) continue;
    head_rows_.push_back(batch_.rows() - 1);
    drafting_.push_back(i);
  }
  forward_.RunMtp(batch_.batch(), Hidden::kMain, hidden_rows_);
  TakeDrafts(results);
  for (int draft = 2; draft <= options_.drafts && !drafting_.empty(); ++draft) {
    NextDraftRows(chunks, results, draft);
    forward_.RunMtp(batch_.batch(), Hidden::kMtp, hidden_rows_);
    TakeDrafts(results);
  }
}

// Appends the argmax of head_rows_ to the drafts of drafting_.
void PrefillStep::TakeDrafts(std::vector<PrefillResult>& results) {
  argmax_.resize(head_rows_.size());
  for (size_t begin = 0; begin < head_rows_.size(); begin += options_.max_head_rows) {
    const size_t count = std::min<size_t>(options_.max_head_rows, head_rows_.size() - begin);
    forward_.Argmax(Hidden::kMtp, std::span(head_rows_).subspan(begin, count),
                    options_.vocabulary.limit, std::span(argmax_).subspan(begin, count));
  }
  for (size_t i = 0; i < drafting_.size(); ++i) {
    results[drafting_[i]].drafts.push_back(argmax_[i]);
  }
}

// Draft `draft` (2...) of a prompt of n tokens is one row at position n + draft - 2. A sequence
// whose pages or context end there has no further drafts.
void PrefillStep::NextDraftRows(std::span<const PrefillChunk> chunks,
                                const std::vector<PrefillResult>& results, int draft) {
  batch_.Clear();
  hidden_rows_.clear();
  std::vector<int32_t> last_rows;
  std::vector<size_t> still;
  for (size_t i = 0; i < drafting_.size(); ++i) {
    const PrefillChunk& chunk = chunks[drafting_[i]];
    const int position = PromptEnd(chunk) + draft - 2;
    const int64_t slots = int64_t(chunk.pages.size()) * kPageTokens;
    if (position >= std::min<int64_t>(slots, options_.max_context)) continue;
    still.push_back(drafting_[i]);
    hidden_rows_.push_back(head_rows_[i]);
    batch_.AddSequence(chunk.pages);
    last_rows.push_back(batch_.rows());
    batch_.AddRow(results[drafting_[i]].drafts.back(), position);
  }
  drafting_ = std::move(still);
  head_rows_ = std::move(last_rows);
}

}  // namespace baleen::engine
