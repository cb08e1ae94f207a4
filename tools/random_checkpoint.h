#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace baleen::tools {

inline constexpr char kRandomCheckpointUsage[] =
    R"(usage: baleen_random_checkpoint --config FILE --out DIR [--seed N]
A checkpoint of made-up weights that every Baleen process loads: DIR/config.json (a copy of FILE)
and the safetensors files that it asks for. No tokenizer.
)";

// Makes `directory` and writes the checkpoint into it. InvalidArgument or NotFound for the config,
// Unavailable for a file that cannot be written.
absl::Status WriteRandomCheckpoint(const std::string& config_file, const std::string& directory,
                                   uint64_t seed);

}  // namespace baleen::tools
