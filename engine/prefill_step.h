#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "common/ids.h"
#include "engine/batch_builder.h"
#include "model/forward.h"
#include "model/row_sampler.h"

namespace baleen::engine {

// A piece of one prompt. Plain data, so that a batch can travel through the pipeline.
struct PrefillChunk {
  uint64_t id = 0;              // the caller's, e.g. the attempt
  std::vector<int32_t> tokens;  // at least one
  int first_position = 0;       // of tokens[0] in the prompt
  bool last = false;            // the prompt ends with this chunk
  int32_t next_token = 0;       // the prompt's token after the chunk; unused when `last`
  std::vector<PageId> pages;    // of the sequence from position 0; PrefillPages() of them at `last`
  model::SamplingParams sampling;
  // Prompt tokens before first_position; read only when `last` and repetition_penalty != 1.
  std::vector<int32_t> earlier_tokens;
};

// What the last stage knows about a chunk afterwards.
struct PrefillResult {
  uint64_t id = 0;
  absl::Status status;    // not OK: the prompt failed (NaN logits); the rest is not set
  bool finished = false;  // the prompt ended here: first_token and drafts are set
  int32_t first_token = 0;
  std::vector<int32_t> drafts;  // for decode's first verify step; at most Options::drafts
  std::optional<model::TokenLogprobs> logprobs;  // of first_token, when asked for
  // When asked for: of the prompt's tokens first_position + 1 ... up to the one after the chunk
  // (the prompt's first token has none).
  std::vector<model::TokenLogprobs> prompt_logprobs;
};

// Runs batches of chunks on one pipeline stage: the main layers of the stage, and on the last stage
// the first token of every prompt that ends, MTP over all rows, and the drafts. (3.8)
//
// Stateless between batches but for buffers. Threads: the step thread.
class PrefillStep {
 public:
  struct Options {
    model::Shard shard;
    int drafts = 0;  // 0..3; > 0 needs shard.mtp on the last stage
    int max_rows = 0;
    int max_head_rows = 0;
    int max_context = 0;
    model::Vocabulary vocabulary;  // last stage only
  };
  PrefillStep(model::Forward& forward, Options options);
  // Of the backend's memory, which the constructor takes.
  static size_t PlannedBytes(const Options& options);

  // One batch: distinct sequences, at most max_rows tokens together. On a stage that is not first
  // the input is in forward.stream(); on one that is not last the output is there afterwards and
  // the result is empty. On the last stage: one result a chunk, in order.
  std::vector<PrefillResult> Run(std::span<const PrefillChunk> chunks);

 private:
  void SampleFirst(std::span<const PrefillChunk> chunks, std::vector<PrefillResult>& results);
  void SampleGroup(std::span<const PrefillChunk> chunks, std::span<const size_t> group,
                   std::vector<PrefillResult>& results);
  void Choose(model::Forward::Hidden of, std::span<const int32_t> rows);
  void PromptLogprobs(const PrefillChunk& chunk, int first_row, PrefillResult& result);
  void RunDrafts(std::span<const PrefillChunk> chunks, std::vector<PrefillResult>& results);
  void NextDraftRows(std::span<const PrefillChunk> chunks,
                     const std::vector<PrefillResult>& results, int draft);
  void TakeDrafts(std::vector<PrefillResult>& results);

  model::Forward& forward_;
  const Options options_;
  std::optional<model::RowSampler> sampler_;  // of the last stage, as is
  std::optional<model::SamplingBatch> sampling_;
  BatchBuilder batch_;
  std::vector<int32_t> last_rows_;    // of each chunk in the main batch
  std::vector<size_t> drafting_;      // chunks whose sequences get drafts
  std::vector<int32_t> head_rows_;    // of each of them, in the last MTP run
  std::vector<int32_t> hidden_rows_;  // of each row of the next MTP run
};

}  // namespace baleen::engine
