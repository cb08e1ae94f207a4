#include "engine/decode_step.h"

#include <algorithm>

#include "common/check.h"
#include "common/kv_layout.h"
#include "common/status_macros.h"
#include "engine/speculation.h"

namespace baleen::engine {
namespace {

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

DecodePass::Options PassOptions(const DecodeLimits& limits) {
  return {.max_sequences = limits.max_sequences,
          .drafts = limits.drafts,
          .max_context = limits.max_context,
          .max_head_rows = limits.max_head_rows,
          .index_topk = limits.index_topk,
          .vocabulary = limits.vocabulary};
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
    : limits_(std::move(limits)), pass_(forward, PassOptions(limits_)) {
  BALEEN_CHECK(limits_.drafts >= 0 && limits_.max_head_rows > 0);
}

size_t DecodeStep::PlannedBytes(const DecodeLimits& limits) {
  return DecodePass::Bytes(PassOptions(limits));
}

std::vector<StepOutput> DecodeStep::Run(std::span<DecodeSequence* const> sequences,
                                        int most_sequences) {
  BALEEN_CHECK(flights_.empty());
  Launch(sequences, most_sequences);
  return Finish();
}

void DecodeStep::Launch(std::span<DecodeSequence* const> sequences, int most_sequences) {
  inputs_.clear();
  for (DecodeSequence* sequence : sequences) inputs_.push_back(InputOf(*sequence));
  pass_.Launch(inputs_, most_sequences);
  flights_.emplace_back(sequences.begin(), sequences.end());
  last_flight_.clear();
  for (size_t i = 0; i < sequences.size(); ++i) last_flight_[sequences[i]] = static_cast<int>(i);
}

std::vector<StepOutput> DecodeStep::Finish() {
  BALEEN_CHECK(!flights_.empty());
  pass_.Wait();
  const std::vector<DecodeSequence*> sequences = std::move(flights_.front());
  flights_.pop_front();
  if (flights_.empty()) last_flight_.clear();
  std::vector<StepOutput> outputs;
  for (size_t i = 0; i < sequences.size(); ++i)
    outputs.push_back(OutputOf(*sequences[i], static_cast<int>(i)));
  return outputs;
}

StepOutput DecodeStep::OutputOf(DecodeSequence& sequence, int index) {
  if (sequence.finish != FinishReason::kNone) return {};
  StepOutput output = Verify(sequence, index);
  sequence.drafts.clear();
  if (!output.status.ok() || sequence.finish != FinishReason::kNone) return output;
  const int drafts = DraftsOf(sequence);
  for (int draft = 0; draft < drafts; ++draft) sequence.drafts.push_back(pass_.Draft(index, draft));
  return output;
}

// Positions that may get a row. The newest token itself always has one.
int DecodeStep::SlotsOf(const DecodeSequence& sequence) const {
  const int64_t slots =
      std::min<int64_t>(int64_t(sequence.pages.size()) * kPageTokens, limits_.max_context);
  BALEEN_CHECK_MSG(slots > NextPosition(sequence),
                   "a running sequence has no page for its next row");
  return static_cast<int>(slots);
}

// As many as have a slot behind the newest token.
int DecodeStep::DraftsOf(const DecodeSequence& sequence) const {
  return std::min(SlotsOf(sequence) - NextPosition(sequence) - 1, limits_.drafts);
}

DecodePass::Input DecodeStep::InputOf(DecodeSequence& sequence) const {
  BALEEN_CHECK(sequence.finish == FinishReason::kNone);
  const auto before = last_flight_.find(&sequence);
  const bool follows = before != last_flight_.end();
  BALEEN_CHECK(!follows || CanFollow(sequence));
  if (!follows) sequence.drafts.resize(DraftsOf(sequence), 0);  // prefill may have made fewer
  return {.token = sequence.tokens.back(),
          .position = NextPosition(sequence),
          .drafts = sequence.drafts,
          .pages = sequence.pages,
          .slots = SlotsOf(sequence),
          .follows = follows ? before->second : -1,
          .sampling = &sequence.sampling,
          .history = &sequence.history};
}

StepOutput DecodeStep::Verify(DecodeSequence& sequence, int index) {
  StepOutput output;
  const auto emitted = WalkDrafts(sequence.drafts, [&](int row) -> absl::StatusOr<Choice> {
    BALEEN_ASSIGN_OR_RETURN(const int32_t token, pass_.Chosen(index, row));
    if (auto logprobs = pass_.Logprobs(index, row)) output.logprobs.push_back(*std::move(logprobs));
    Append(sequence, token, limits_);
    output.tokens.push_back(token);
    return Choice{.token = token, .ends = sequence.finish != FinishReason::kNone};
  });
  if (!emitted.ok()) return {.status = emitted.status()};
  ++sequence.steps;
  sequence.accepted_drafts += *emitted - 1;
  return output;
}

}  // namespace baleen::engine
