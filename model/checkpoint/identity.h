#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace baleen::model {

// What tells one checkpoint's weights from another's without reading them all, the same for every
// process: a hash of each weight file's name and size, its head (where the names, shapes and places
// of the tensors are) and blocks at even distances through the whole file, and of the index. Two
// trainings differ in nearly every block; a single changed number between the blocks is not seen.
// All weight files must be there, also those of other stages. 16 hexadecimal digits.
//
// NotFound: no weight file in `directory`. Unavailable: one cannot be read.
absl::StatusOr<std::string> CheckpointIdentity(const std::string& directory);

}  // namespace baleen::model
