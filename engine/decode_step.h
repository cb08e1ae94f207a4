#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "common/ids.h"
#include "engine/decode_pass.h"
#include "engine/finish.h"
#include "model/forward.h"
#include "model/sampling.h"

namespace baleen::engine {

// A sequence being decoded. tokens.back() is the newest token and has no cache row yet: the caches
// hold the rows of all tokens before it, so rolling back a rejected draft is forgetting it.
struct DecodeSequence {
  uint64_t id = 0;  // the caller's, e.g. the attempt
  model::SamplingParams sampling;
  std::vector<int32_t> tokens;  // prompt and generated
  int prompt_tokens = 0;
  std::vector<PageId> pages;    // DecodePages() of them; references held by the caller
  std::vector<int32_t> drafts;  // for the next verify step
  model::TokenHistory history;
  FinishReason finish = FinishReason::kNone;
  int steps = 0;            // verify steps
  int accepted_drafts = 0;  // of all steps: tokens beyond one a step

  int generated() const { return static_cast<int>(tokens.size()) - prompt_tokens; }
};

// What decode needs besides the sequence.
struct DecodeLimits {
  int max_sequences = 0;  // of a step
  int drafts = 0;         // k, 0..3, the same on every rank
  int max_context = 0;    // tokens
  int max_head_rows = 0;
  int index_topk = 0;  // of the model's indexer; 0: it has none
  model::Vocabulary vocabulary;
};

// A sequence whose prompt is in `pages`, with prefill's first token. Its `finish` is set when that
// token already ends it. Fewer drafts than k (prefill had none) are legal.
DecodeSequence StartSequence(uint64_t id, std::vector<int32_t> prompt,
                             model::SamplingParams sampling, std::vector<PageId> pages,
                             int32_t first_token, std::vector<int32_t> drafts,
                             const DecodeLimits& limits);

// What one step gave one sequence.
struct StepOutput {
  absl::Status status;          // not OK: the sequence failed (NaN logits); take it out
  std::vector<int32_t> tokens;  // 1 ... k + 1, in order; a stop token is the last one
  std::vector<model::TokenLogprobs> logprobs;  // one a token, when asked for
};

// One lockstep decode step of one rank: verify the drafts of all its sequences, choose tokens, make
// the next drafts. Every call makes exactly one RunMain and k RunMtp calls, also with no sequence
// or when all of them end, so the expert exchanges of all ranks stay in step.
//
// Each sequence has 1 + k rows, missing drafts being padded with token 0 (any draft is correct);
// rows are empty where its pages or max_context end. MTP runs over the same rows, which rebuilds
// the provisional rows of the last round (pitfall 22), and once for each further draft. The
// DecodePass does this on the device; here is what the host makes of it.
//
// Threads: the step thread.
class DecodeStep {
 public:
  DecodeStep(model::Forward& forward, DecodeLimits limits);
  // Of the backend's memory, which the constructor takes.
  static size_t PlannedBytes(const DecodeLimits& limits);

  // Once, before the first Run, on all ranks of the group at the same time (DecodePass::Record).
  void Record() { pass_.Record(); }

  // `sequences`: distinct and unfinished; `most_sequences`: of any rank of the group. outputs[i]
  // belongs to sequences[i]; DecodeSequence is updated (tokens, drafts, finish, statistics).
  std::vector<StepOutput> Run(std::span<DecodeSequence* const> sequences, int most_sequences = 0);

  // Run in two halves. A second step may be launched before the first is finished, with sequences
  // of it that CanFollow and others. One that turns out to have ended in the first has an empty
  // output in the second, which still writes its pages: they may be given away only after that.
  void Launch(std::span<DecodeSequence* const> sequences, int most_sequences = 0);
  std::vector<StepOutput> Finish();  // of the oldest step launched; waits for it
  int in_flight() const { return static_cast<int>(flights_.size()); }
  static bool CanFollow(const DecodeSequence& sequence) {
    return model::SamplingBatch::CanFollow(sequence.sampling, sequence.generated());
  }

  const DecodeLimits& limits() const { return limits_; }

 private:
  int SlotsOf(const DecodeSequence& sequence) const;
  int DraftsOf(const DecodeSequence& sequence) const;
  DecodePass::Input InputOf(DecodeSequence& sequence) const;
  StepOutput OutputOf(DecodeSequence& sequence, int index);
  StepOutput Verify(DecodeSequence& sequence, int index);

  const DecodeLimits limits_;
  DecodePass pass_;
  std::vector<DecodePass::Input> inputs_;
  std::deque<std::vector<DecodeSequence*>> flights_;             // not finished, by launch
  absl::flat_hash_map<const DecodeSequence*, int> last_flight_;  // numbers in the newest of them
};

}  // namespace baleen::engine
