#pragma once

#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/forward.h"
#include "model/weights.h"

namespace baleen::model {

// The row lists of one Batch in the backend's memory, uploaded with one copy. Threads: the step
// thread. Valid until the next Upload.
class DeviceBatch {
 public:
  DeviceBatch(kernels::Backend& backend, const ForwardOptions& options);
  static size_t Bytes(const ForwardOptions& options);
  bool allocated() const { return device_.data() != nullptr; }

  // Checks the batch against the options (a bad one is a bug of the engine) and copies it.
  // `hidden_rows` is empty or as long as the batch; `token_limit` 0: the tokens are not used.
  void Upload(const Batch& batch, std::span<const int32_t> hidden_rows, int token_limit);

  const DeviceRows& rows() const { return rows_; }
  const int32_t* hidden_rows() const { return hidden_rows_; }

 private:
  void Check(const Batch& batch, std::span<const int32_t> hidden_rows, int token_limit) const;
  const int32_t* Append(std::span<const int32_t> values);

  kernels::Backend& backend_;
  const ForwardOptions options_;
  DeviceBlock device_;
  std::vector<int32_t> staging_;  // what is copied; not touched before the copy has finished
  bool in_flight_ = false;

  DeviceRows rows_;
  const int32_t* hidden_rows_ = nullptr;
  std::vector<int32_t> positions_;
};

}  // namespace baleen::model
