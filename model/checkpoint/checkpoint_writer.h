#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "model/checkpoint/tensor_source.h"

namespace baleen::model {

// Writes the named tensors of `source` into the existing `directory` as Checkpoint reads them:
// model-00001-of-0000N.safetensors and so on, each of at most `file_bytes` (or of one tensor), and
// the index. Unavailable names a file that cannot be written.
absl::Status WriteCheckpoint(TensorSource& source, std::span<const std::string> names,
                             const std::string& directory, uint64_t file_bytes);

}  // namespace baleen::model
