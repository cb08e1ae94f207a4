#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "model/sampling_batch.h"
#include "model/weights.h"

namespace baleen::model {

// Tokens for rows of logits, chosen where the logits lie: Backend::Sample with the device's half of
// a SamplingBatch. Upload, Sample (for all rows or some at a time) and Download; the results are in
// the batch once the backend has come so far (Synchronize, or a mark behind it).
//
// Threads: the step thread.
class RowSampler {
 public:
  // The memory was planned (Bytes): that it is missing is a BALEEN_CHECK.
  RowSampler(kernels::Backend& backend, SamplingLimits limits);
  static size_t Bytes(const SamplingLimits& limits);

  void Upload(const SamplingBatch& batch);  // asynchronous
  // Logits of the rows [first, first + logits.rows); the logits are used up.
  void Sample(const kernels::Matrix& logits, int first);
  // The likeliest token of each row of logits, without parameters.
  void Greedy(const kernels::Matrix& logits, int32_t* tokens);
  void Download(SamplingBatch& batch);  // asynchronous

  kernels::SamplingRow* device_rows() { return rows_; }
  const int32_t* device_tokens() const { return tokens_; }

 private:
  kernels::Backend& backend_;
  const SamplingLimits limits_;
  DeviceBlock device_;
  kernels::SamplingRow* rows_ = nullptr;
  kernels::LogitEdit* edits_ = nullptr;
  int32_t* missing_ = nullptr;
  int32_t* tokens_ = nullptr;      // [rows]
  float* logprobs_ = nullptr;      // [rows]
  int32_t* top_tokens_ = nullptr;  // [rows, kMaxTopLogprobs]
  float* top_logprobs_ = nullptr;  // [rows, kMaxTopLogprobs]
};

}  // namespace baleen::model
