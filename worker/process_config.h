#pragma once

#include "absl/status/status.h"

namespace baleen::v1 {
class WorkerConfig;
}

namespace baleen::worker {

// Checks what both kinds of worker have in common, first, before anything slow happens, and fills
// in the times that are not given. InvalidArgument names the field.
absl::Status Complete(v1::WorkerConfig& config);

}  // namespace baleen::worker
