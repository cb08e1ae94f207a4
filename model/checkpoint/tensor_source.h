#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/checkpoint/safetensors.h"

namespace baleen::model {

// A tensor of a source; valid as long as the source.
struct TensorView {
  const TensorEntry* entry = nullptr;
  const std::byte* data = nullptr;
  const std::string* file = nullptr;  // path, for messages

  uint64_t bytes() const { return entry->end - entry->begin; }
};

// Where the loader finds tensors by name: a directory (Checkpoint) or made-up ones (RandomTensors).
// Threads: one at a time.
class TensorSource {
 public:
  virtual ~TensorSource() = default;

  // NotFound names the tensor.
  virtual absl::StatusOr<TensorView> Find(absl::string_view name) = 0;
};

}  // namespace baleen::model
