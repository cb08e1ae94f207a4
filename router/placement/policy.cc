#include "router/placement/policy.h"

#include "absl/strings/str_cat.h"

namespace baleen::router {

absl::StatusOr<Policy> ParsePolicy(absl::string_view name) {
  if (name.empty() || name == "least_load") return &LeastLoad;
  if (name == "power_of_two") return &PowerOfTwo;
  if (name == "round_robin") return &RoundRobin;
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown placement policy \"", name, "\": use least_load, power_of_two or round_robin"));
}

}  // namespace baleen::router
