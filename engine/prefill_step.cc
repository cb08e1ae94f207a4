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

constexpr int kSampledTogether = 8;  // prompts whose first tokens are chosen together

model::SamplingLimits LimitsOf(const PrefillStep::Options& o) {
  return {.max_rows = o.max_head_rows,
          .max_sequences = std::min(kSampledTogether, o.max_head_rows),
          .vocabulary = o.vocabulary};
}

// The token at the position after row `row` of the chunk.
int32_t TokenAfter(const PrefillChunk& chunk, size_t row, int32_t first_token) {
  if (row + 1 < chunk.tokens.size()) return chunk.tokens[row + 1];
  return chunk.last ? first_token : chunk.next_token;
}

}  // namespace

PrefillStep::PrefillStep(model::Forward& forward, Options options)
    : forward_(forward), options_(std::move(options)) {
  BALEEN_CHECK(options_.drafts >= 0 && options_.max_head_rows > 0);
  BALEEN_CHECK(options_.drafts == 0 || !options_.shard.last() || options_.shard.mtp);
  if (!options_.shard.last()) return;
  sampler_.emplace(forward.backend(), LimitsOf(options_));
  sampling_.emplace(forward.backend(), LimitsOf(options_));
}

size_t PrefillStep::PlannedBytes(const Options& options) {
  return options.shard.last() ? model::RowSampler::Bytes(LimitsOf(options)) : 0;
}

std::vector<PrefillResult> PrefillStep::Run(std::span<const PrefillChunk> chunks) {
  batch_.Clear();
  last_rows_.clear();
  for (const PrefillChunk& chunk : chunks) {
    BALEEN_CHECK(!chunk.tokens.empty());
    batch_.AddSequence(chunk.pages);
    for (size_t i = 0; i < chunk.tokens.size(); ++i) {
      batch_.AddRow(chunk.tokens[i], chunk.first_position + static_cast<int>(i));
    }
    last_rows_.push_back(batch_.rows() - 1);
  }
  BALEEN_CHECK(batch_.rows() <= options_.max_rows);
  forward_.RunMain(batch_.batch());
  if (!options_.shard.last()) return {};

  std::vector<PrefillResult> results(chunks.size());
  for (size_t i = 0; i < chunks.size(); ++i) {
    results[i].id = chunks[i].id;
    const int first_row = last_rows_[i] + 1 - static_cast<int>(chunks[i].tokens.size());
    if (chunks[i].sampling.prompt_logprobs) PromptLogprobs(chunks[i], first_row, results[i]);
  }
  SampleFirst(chunks, results);
  if (options_.drafts > 0) RunDrafts(chunks, results);
  return results;
}

// Samples what was added to sampling_, at the named rows, and waits.
void PrefillStep::Choose(Hidden of, std::span<const int32_t> rows) {
  BALEEN_CHECK(size_t(sampling_->rows()) == rows.size());
  sampler_->Upload(*sampling_);
  sampler_->Sample(forward_.Head(of, rows), 0);
  sampler_->Download(*sampling_);
  forward_.backend().Synchronize();
}

// The first token of every prompt that ends here.
void PrefillStep::SampleFirst(std::span<const PrefillChunk> chunks,
                              std::vector<PrefillResult>& results) {
  std::vector<size_t> ending;
  for (size_t i = 0; i < chunks.size(); ++i) {
    if (chunks[i].last && results[i].status.ok()) ending.push_back(i);
  }
  const size_t group = std::min(kSampledTogether, options_.max_head_rows);
  for (size_t begin = 0; begin < ending.size(); begin += group) {
    const size_t count = std::min(group, ending.size() - begin);
    SampleGroup(chunks, std::span(ending).subspan(begin, count), results);
  }
}

void PrefillStep::SampleGroup(std::span<const PrefillChunk> chunks, std::span<const size_t> group,
                              std::vector<PrefillResult>& results) {
  sampling_->Clear();
  head_rows_.clear();
  for (const size_t i : group) {
    model::TokenHistory history(chunks[i].sampling, chunks[i].earlier_tokens);
    history.AddPrompt(chunks[i].tokens);
    sampling_->AddSequence(chunks[i].sampling, history, PromptEnd(chunks[i]), {});
    head_rows_.push_back(last_rows_[i]);
  }
  Choose(Hidden::kMain, head_rows_);
  for (size_t row = 0; row < group.size(); ++row) {
    PrefillResult& result = results[group[row]];
    result.status = sampling_->StatusOf(static_cast<int>(row));
    if (!result.status.ok()) continue;
    result.first_token = sampling_->TokenOf(static_cast<int>(row));
    result.finished = true;
    result.logprobs = sampling_->LogprobsOf(static_cast<int>(row));
  }
}

void PrefillStep::PromptLogprobs(const PrefillChunk& chunk, int first_row, PrefillResult& result) {
  const int top = chunk.sampling.top_logprobs.value_or(0);
  const int count = static_cast<int>(chunk.tokens.size()) - (chunk.last ? 1 : 0);
  for (int begin = 0; begin < count; begin += options_.max_head_rows) {
    const int end = std::min(begin + options_.max_head_rows, count);
    sampling_->Clear();
    head_rows_.clear();
    for (int row = begin; row < end; ++row) {
      sampling_->AddKnown(TokenAfter(chunk, row, 0), top);
      head_rows_.push_back(first_row + row);
    }
    Choose(Hidden::kMain, head_rows_);
    for (int row = 0; row < end - begin; ++row) {
      result.status = sampling_->StatusOf(row);
      if (!result.status.ok()) return;
      result.prompt_logprobs.push_back(*sampling_->LogprobsOf(row));
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

// Appends the likeliest token of head_rows_ to the drafts of drafting_.
void PrefillStep::TakeDrafts(std::vector<PrefillResult>& results) {
  for (size_t begin = 0; begin < head_rows_.size(); begin += options_.max_head_rows) {
    const size_t count = std::min<size_t>(options_.max_head_rows, head_rows_.size() - begin);
    sampling_->Clear();
    sampling_->AddGreedy(static_cast<int>(count));
    Choose(Hidden::kMtp, std::span(head_rows_).subspan(begin, count));
    for (size_t i = 0; i < count; ++i) {
      const int32_t draft = std::max(sampling_->TokenOf(static_cast<int>(i)), 0);
      results[drafting_[begin + i]].drafts.push_back(draft);
    }
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
