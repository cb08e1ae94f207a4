#pragma once

#include <string>

#include "absl/status/status.h"

namespace baleen::worker {

// Writes "grpc_port=…\nmetrics_port=…\npid=…\n" to `path` in one piece (a reader sees all or
// nothing), so that scripts know the process serves and where. Nothing for an empty path.
absl::Status WriteReadyFile(const std::string& path, int grpc_port, int metrics_port);

}  // namespace baleen::worker
