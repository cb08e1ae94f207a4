#include "router/placement/policy.h"

namespace baleen::router {

size_t PowerOfTwo(std::span<const int64_t> cost_tokens, const PolicyInput& input) {
  const uint64_t n = cost_tokens.size();
  if (n == 1) return 0;
  const uint64_t first = (input.random & 0xffffffffu) % n;
  const uint64_t second = (first + 1 + (input.random >> 32) % (n - 1)) % n;  // another one
  return cost_tokens[second] < cost_tokens[first] ? second : first;
}

}  // namespace baleen::router
