#include "engine/decode_step.h"

#include <algorithm>

#include "common/check.h"
#include "common/kv_layout.h"
#include "common/status_macros.h"
#include "engine/speculation.h"

namespace baleen::engine {
namespace {

using Hidden = model::Forward::Hidden;

// Position of the newest token, the first row of the next verify step.
int NextPosition(const DecodeSequence& sequence) {
  return static_cast<int>(sequence.tokens.size()) - 1;
}

// Appends a token and notes whether it ends the sequence.
void Append(DecodeSequence& sequence, int32_t token, const DecodeLimits& limits) {
  sequence.tokens.push_back(token);
  sequence.history.Add(token);
  sequence.finish =
      FinishAfter(token, sequence.generated(), static_cast<int>(sequence.tokens.size()),
                  limits.max_context, sequence.sampling, limits.vocabulary);
}

}  // namespace

DecodeSequence StartSequence(uint64_t id, std::vector<int32_t> prompt,
                             model::SamplingParams sampling, std::vector<PageId> pages,
                             int32_t first_token, std::vector<int32_t> drafts,
                             const DecodeLimits& limits) {
  DecodeSequence sequence{.id = id,
                          .sampling = std::move(sampling),
                          .tokens = std::move(prompt),
                          .pages = std::move(pages),
                          .drafts = std::move(drafts)};
  sequence.prompt_tokens = static_cast<int>(sequence.tokens.size());
  sequence.history = model::TokenHistory(sequence.sampling, sequence.tokens);
  Append(sequence, first_token, limits);
  return sequence;
}

DecodeStep::DecodeStep(model::Forward& forward, DecodeLimits limits)
    : forward_(forward), limits_(std::move(limits)), sampler_(limits_.vocabulary) {
  BALEEN_CHECK(limits_.drafts >= 0 && limits_.max_head_rows > limits_.drafts);
}

std::vector<StepOutput> DecodeStep::Run(std::span<DecodeSequence* const> sequences) {
  batch_.Clear();
  first_rows_.clear();
  for (DecodeSequence* sequence : sequences) {
    BALEEN_CHECK(sequence->finish == FinishReason::kNone);
    const int position = NextPosition(*sequence);
    sequence->drafts.resize(RowsOf(*sequence) - 1, 0);
    first_rows_.push_back(batch_.rows());
    batch_.AddSequence(sequence->pages);
    batch_.AddRow(sequence->tokens.back(), position);
    for (size_t i = 0; i < sequence->drafts.size(); ++i) {
      batch_.AddRow(sequence->drafts[i], position + 1 + static_cast<int>(i));
    }
  }
  forward_.RunLayers(batch_.batch());
  std::vector<StepOutput> outputs(sequences.size());
  Verify(sequences, outputs);
  if (limits_.drafts > 0) Draft(sequences, outputs);
  return outputs;
}

// 1 + k, fewer where the pages or the context end. The newest token itself always has a slot.
int DecodeStep::RowsOf(const DecodeSequence& sequence) const {
  const int64_t slots =
      std::min<int64_t>(int64_t(sequence.pages.size()) * kPageTokens, limits_.max_context);
  const int64_t left = slots - NextPosition(sequence);
  BALEEN_CHECK_MSG(left >= 1, "a running sequence has no page for its next row");
  return static_cast<int>(std::min<int64_t>(left, 1 + limits_.drafts));
}

// As many sequences at a time as the head takes rows.
void DecodeStep::Verify(std::span<DecodeSequence* const> sequences,
                        std::vector<StepOutput>& outputs) {
  for (size_t begin = 0; begin < sequences.size();) {
    rows_.clear();
    size_t end = begin;
    for (; end < sequences.size(); ++end) {
      const size_t rows = 1 + sequences[end]->drafts.size();
      if (rows_.size() + rows > size_t(limits_.max_head_rows)) break;
      for (size_t i = 0; i < rows; ++i) rows_.push_back(first_rows_[end] + static_cast<int>(i));
    }
    std::span<const float> logits = forward_.Logits(Hidden::kMain, rows_);
    const size_t width = logits.size() / rows_.size();
    for (; begin < end; ++begin) {
      const size_t rows = 1 + sequences[begin]->drafts.size();
      outputs[begin] = VerifyOne(*sequences[begin], logits.first(rows * width), width);
      logits = logits.subspan(rows * width);
    }
  }
}

StepOutput DecodeStep::VerifyOne(DecodeSequence& sequence, std::span<const float> logits,
                                 size_t width) {
  StepOutput output;
  const auto emitted = WalkDrafts(sequence.drafts, [&](int row) -> absl::StatusOr<Choice> {
    const std::span<const float> row_logits = logits.subspan(row * width, width);
    BALEEN_ASSIGN_OR_RETURN(const int32_t token,
                            sampler_.Sample(row_logits, sequence.sampling, sequence.history,
                                            static_cast<int>(sequence.tokens.size())));
    if (sequence.sampling.top_logprobs.has_value()) {
      BALEEN_ASSIGN_OR_RETURN(
          output.logprobs.emplace_back(),
          sampler_.Logprobs(row_logits, token, *sequence.sampling.top_logprobs));
    }
    Append(sequence, token, limits_);
    output.tokens.push_back(token);
    return Choice{.token = token, .ends = sequence.finish != FinishReason::kNone};
  });
  if (!emitted.ok()) return {.status = emitted.status()};
  ++sequence.steps;
  sequence.accepted_drafts += *emitted - 1;
  return output;
}

// Section 3.8: the accepted rows through MTP, the last one's argmax is draft 1; then one row a
// draft. Sequences that ended are left out; the number of runs stays k.
void DecodeStep::Draft(std::span<DecodeSequence* const> sequences,
                       const std::vector<StepOutput>& outputs) {
  batch_.Clear();
  hidden_rows_.clear();
  rows_.clear();
  drafting_.clear();
  for (size_t i = 0; i < sequences.size(); ++i) {
    DecodeSequence& sequence = *sequences[i];
    sequence.drafts.clear();
    if (!outputs[i].status.ok() || sequence.finish != FinishReason::kNone) continue;
    const std::vector<int32_t>& emitted = outputs[i].tokens;
    const int first = NextPosition(sequence) - static_cast<int>(emitted.size());
    batch_.AddSequence(sequence.pages);
    for (size_t row = 0; row < emitted.size(); ++row) {
      hidden_rows_.push_back(first_rows_[i] + static_cast<int>(row));
      batch_.AddRow(emitted[row], first + static_cast<int>(row));
    }
    rows_.push_back(batch_.rows() - 1);
    drafting_.push_back(&sequence);
  }
  forward_.RunMtp(batch_.batch(), Hidden::kMain, hidden_rows_);
  TakeDrafts();
  for (int draft = 2; draft <= limits_.drafts; ++draft) {
    NextDraftRows();
    forward_.RunMtp(batch_.batch(), Hidden::kMtp, hidden_rows_);
    TakeDrafts();
  }
}

void DecodeStep::TakeDrafts() {
  argmax_.resize(rows_.size());
  for (size_t begin = 0; begin < rows_.size(); begin += limits_.max_head_rows) {
    const size_t count = std::min<size_t>(limits_.max_head_rows, rows_.size() - begin);
    forward_.Argmax(Hidden::kMtp, std::span(rows_).subspan(begin, count), limits_.vocabulary.limit,
                    std::span(argmax_).subspan(begin, count));
  }
  for (size_t i = 0; i < drafting_.size(); ++i) drafting_[i]->drafts.push_back(argmax_[i]);
}

// With n + 1 tokens known, draft j = 2... is one row at position n + j - 2. Sequences without a
// slot there have no further drafts.
void DecodeStep::NextDraftRows() {
  batch_.Clear();
  hidden_rows_.clear();
  std::vector<int32_t> last_rows;
  std::vector<DecodeSequence*> still;
  for (size_t i = 0; i < drafting_.size(); ++i) {
    DecodeSequence& sequence = *drafting_[i];
    const int drafts = static_cast<int>(sequence.drafts.size());
    if (RowsOf(sequence) < drafts) continue;
    still.push_back(&sequence);
    hidden_rows_.push_back(rows_[i]);
    batch_.AddSequence(sequence.pages);
    last_rows.push_back(batch_.rows());
    batch_.AddRow(sequence.drafts.back(), NextPosition(sequence) + drafts - 1);
  }
  drafting_ = std::move(still);
  rows_ = std::move(last_rows);
}

}  // namespace baleen::engine
