#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "kernels/backend.h"
#include "model/host_array.h"
#include "model/sampling.h"

namespace baleen::model {

// The most that is sampled at a time.
struct SamplingLimits {
  int max_rows = 0;
  int max_sequences = 0;  // whose parameters are used together
  Vocabulary vocabulary;
};

// Rows to be sampled with what they need from their requests, and what came of them. A row is added
// for every row of logits, in order; RowSampler uploads it, samples and downloads the results.
//
// A token is a pure function of (logits, parameters, tokens before it, seed, its index).
//
// Threads: the step thread. Not to be changed between RowSampler::Upload and the end of Download.
class SamplingBatch {
 public:
  SamplingBatch(kernels::Backend& backend, const SamplingLimits& limits);

  // Forgets all rows.
  void Clear();
  // 1 + drafts.size() rows of one sequence: `position` is the index of the first row's token in
  // the sequence, and row j's token is wanted for the case that the first j drafts were right.
  void AddSequence(const SamplingParams& params, const TokenHistory& history, int position,
                   std::span<const int32_t> drafts);
  // The same for `rows` rows whose positions and drafts the device fills in (FollowRows).
  // Only where CanFollow.
  void AddFollower(const SamplingParams& params, int rows);
  // Do the rows of a sequence with `generated` tokens depend on its tokens by nothing but the
  // logits?
  static bool CanFollow(const SamplingParams& params, int generated) {
    return !params.has_penalties() && generated >= params.min_new_tokens;
  }
  // A row whose token is known: for its log-probability and `top` others.
  void AddKnown(int32_t token, int top);
  // Rows without parameters: greedy.
  void AddGreedy(int rows) { rows_.Append(size_t(rows), {}); }
  int rows() const { return static_cast<int>(rows_.size()); }

  // Results, once they are there. Internal when no token could be chosen: a logit was NaN or
  // infinite, or nothing was left.
  absl::Status StatusOf(int row) const;
  int32_t TokenOf(int row) const { return tokens_[size_t(row)]; }
  // nullopt where the row does not want them.
  std::optional<TokenLogprobs> LogprobsOf(int row) const;

 private:
  friend class RowSampler;
  void AddRows(const SamplingParams& params, int first_edit, int position, int rows);
  void AddBias(const SamplingParams& params);
  void AddHistory(const TokenHistory& history);
  void MaskEnds(const SamplingParams& params, int rows);
  kernels::LogitEdit& EditOf(int32_t token);
  bool Known(int32_t token) const { return token >= 0 && token < vocabulary_.limit; }

  const Vocabulary vocabulary_;
  HostArray<kernels::SamplingRow> rows_;
  std::vector<kernels::LogitEdit> edits_;      // rare, and too many to reserve
  absl::flat_hash_map<int32_t, int> edit_of_;  // of the sequence being added
  bool any_logprobs_ = false;
  HostArray<int32_t> tokens_, top_tokens_;  // [rows], [rows, kMaxTopLogprobs]
  HostArray<float> logprobs_, top_logprobs_;
};

}  // namespace baleen::model
