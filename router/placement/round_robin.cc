#include "router/placement/policy.h"

namespace baleen::router {

size_t RoundRobin(std::span<const int64_t> cost_tokens, const PolicyInput& input) {
  return input.sequence % cost_tokens.size();
}

}  // namespace baleen::router
