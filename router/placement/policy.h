#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baleen::router {

// What a policy may use besides the costs; given, so that a policy stays a pure function.
struct PolicyInput {
  uint64_t sequence = 0;  // grows by one a decision
  uint64_t random = 0;    // fresh bits a decision
};

// The index of the chosen candidate. `cost_tokens` is not empty; less is better.
using Policy = size_t (*)(std::span<const int64_t> cost_tokens, const PolicyInput& input);

// The cheapest; equal ones in turn.
size_t LeastLoad(std::span<const int64_t> cost_tokens, const PolicyInput& input);
// The cheaper of two at random: near the best without every router running to the same one.
size_t PowerOfTwo(std::span<const int64_t> cost_tokens, const PolicyInput& input);
// In turn, whatever the cost.
size_t RoundRobin(std::span<const int64_t> cost_tokens, const PolicyInput& input);

// "least_load" (also for ""), "power_of_two", "round_robin".
absl::StatusOr<Policy> ParsePolicy(absl::string_view name);

}  // namespace baleen::router
