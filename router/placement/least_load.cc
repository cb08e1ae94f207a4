#include "router/placement/policy.h"

namespace baleen::router {

size_t LeastLoad(std::span<const int64_t> cost_tokens, const PolicyInput& input) {
  const size_t n = cost_tokens.size();
  size_t best = input.sequence % n;
  for (size_t step = 1; step < n; ++step) {
    const size_t i = (input.sequence + step) % n;
    if (cost_tokens[i] < cost_tokens[best]) best = i;
  }
  return best;
}

}  // namespace baleen::router
