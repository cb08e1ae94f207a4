#pragma once

#include "absl/status/status.h"

namespace baleen::v1 {
class WorkerConfig;
}

namespace baleen::worker {

// The part of a worker's configuration that says which process of which group this is.
// InvalidArgument names the field. Checked first, before anything slow happens.
absl::Status CheckMembership(const v1::WorkerConfig& config);

}  // namespace baleen::worker
