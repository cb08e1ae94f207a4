#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "kernels/backend.h"
#include "model/sampling.h"
#include "model/weights.h"

namespace baleen::model {

// Tokens for rows of logits, chosen where the logits lie: Backend::Sample with what it needs from
// the requests. A row is added for every row of logits, in order; then Upload, Sample (for all rows
// or some at a time) and Download; the results are there after the backend's next Synchronize.
//
// A token is a pure function of (logits, parameters, tokens before it, seed, its index).
//
// Threads: the step thread.
class RowSampler {
 public:
  struct Options {
    int max_rows = 0;
    int max_sequences = 0;  // whose parameters are used together
    Vocabulary vocabulary;
  };
  // The memory was planned (Bytes): that it is missing is a BALEEN_CHECK.
  RowSampler(kernels::Backend& backend, Options options);
  static size_t Bytes(const Options& options);

  // Forgets all rows.
  void Clear();
  // 1 + drafts.size() rows of one sequence: `position` is the index of the first row's token in
  // the sequence, and row j's token is wanted for the case that the first j drafts were right.
  void AddSequence(const SamplingParams& params, const TokenHistory& history, int position,
                   std::span<const int32_t> drafts);
  // A row whose token is known: for its log-probability and `top` others.
  void AddKnown(int32_t token, int top);
  // Rows without parameters: greedy.
  void AddGreedy(int rows);
  int rows() const { return static_cast<int>(rows_.size()); }

  void Upload();  // what was added; asynchronous
  // Logits of the rows [first, first + logits.rows); the logits are used up.
  void Sample(const kernels::Matrix& logits, int first);
  // The likeliest token of each row of logits, without parameters.
  void Greedy(const kernels::Matrix& logits, int32_t* tokens);
  void Download();  // asynchronous

  const int32_t* device_tokens() const { return results_.tokens; }

  // Internal when no token could be chosen: a logit was NaN or infinite, or nothing was left.
  absl::Status StatusOf(int row) const;
  int32_t TokenOf(int row) const { return host_tokens_[row]; }
  // nullopt where the row does not want them.
  std::optional<TokenLogprobs> LogprobsOf(int row) const;

 private:
  struct Results {
    int32_t* tokens = nullptr;      // [rows]
    float* logprobs = nullptr;      // [rows]
    int32_t* top_tokens = nullptr;  // [rows, kMaxTopLogprobs]
    float* top_logprobs = nullptr;  // [rows, kMaxTopLogprobs]
  };
  kernels::LogitEdit& EditOf(int32_t token);
  void AddEdits(const SamplingParams& params, const TokenHistory& history,
                std::span<const int32_t> drafts);
  void MaskEnds(const SamplingParams& params, int rows);

  kernels::Backend& backend_;
  const Options options_;
  std::vector<kernels::SamplingRow> rows_;
  std::vector<kernels::LogitEdit> edits_;
  absl::flat_hash_map<int32_t, int> edit_of_;  // of the sequence being added
  bool any_logprobs_ = false;

  DeviceBlock device_;
  kernels::SamplingRow* device_rows_ = nullptr;
  kernels::LogitEdit* device_edits_ = nullptr;
  int32_t* device_missing_ = nullptr;
  Results results_;
  std::vector<int32_t> host_tokens_, host_top_tokens_;
  std::vector<float> host_logprobs_, host_top_logprobs_;
};

}  // namespace baleen::model
