#pragma once

#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baleen::tools {

// Commands of baleenctl that ask a router or tell it something. Each takes the arguments that
// follow its name and returns the exit status: 0 done, 1 failed (with a message on stderr), 2 wrong
// arguments. All take --url URL (http://127.0.0.1:8000).
inline constexpr char kDefaultUrl[] = "http://127.0.0.1:8000";

// Whether the router is ready, what it serves and how many groups in which state.
int RunStatus(std::span<const std::string> args);
// A line per worker process.
int RunWorkers(std::span<const std::string> args);
// `drain GROUP`: the group takes nothing new and finishes what runs, until `undrain GROUP`; it
// stays registered, so that it can be ended at leisure.
int RunDrain(std::span<const std::string> args);
int RunUndrain(std::span<const std::string> args);
// Drops every prefix cache.
int RunFlush(std::span<const std::string> args);
// Profiles the workers for --seconds N (5).
int RunProfile(std::span<const std::string> args);

// The table that `workers` prints, from the body of GET /workers. InvalidArgument when it is not
// such a body.
absl::StatusOr<std::string> WorkersTable(absl::string_view workers_json);

}  // namespace baleen::tools
