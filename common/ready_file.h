#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace baleen {

// Writes a line "NAME=PORT" for each of `ports` and "pid=…" to `path` in one piece (a reader sees
// all or nothing), so that scripts know that the process serves and where. Nothing for an empty
// path. Unavailable: cannot be written.
absl::Status WriteReadyFile(const std::string& path,
                            const std::vector<std::pair<const char*, int>>& ports);

}  // namespace baleen
