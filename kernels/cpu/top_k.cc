// TopK (3.4).
#include <algorithm>
#include <bit>
#include <cstdint>
#include <numeric>

#include "kernels/cpu/cpu_backend.h"

namespace baleen::kernels::cpu {
namespace {

// Orders floats as unsigned integers; the two zeros are equal and NaN is below everything.
uint32_t OrderKey(float v) {
  if (v != v) return 0;
  const uint32_t bits = std::bit_cast<uint32_t>(v + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// Positions of the k largest of `n` > k logits, ascending.
void SelectLargest(const float* logits, int n, int k, uint64_t* keys, int32_t* out) {
  for (int s = 0; s < n; ++s) {
    keys[s] = (uint64_t{OrderKey(logits[s])} << 32) | uint32_t(~s);  // lower position is larger
  }
  std::nth_element(keys, keys + k - 1, keys + n, std::greater<uint64_t>());
  for (int j = 0; j < k; ++j) out[j] = static_cast<int32_t>(~uint32_t(keys[j]));
  std::sort(out, out + k);
}

}  // namespace

void CpuBackend::TopK(const TopKParams& p) {
  int64_t total = 0;
  for (int r = 0; r < p.rows; ++r) total += p.positions[r] + 1;
  ForEachRow(p.rows, p.rows > 0 ? 20 * total / p.rows : 0, [&](Scratch& scratch, int64_t r) {
    const int n = p.positions[r] + 1;
    int32_t* indices = p.indices + r * p.k;
    if (n > p.k) {
      SelectLargest(p.logits + r * p.logits_stride, n, p.k, scratch.scores.Get<uint64_t>(n),
                    indices);
      return;
    }
    std::iota(indices, indices + n, 0);
    std::fill(indices + n, indices + p.k, -1);
  });
}

}  // namespace baleen::kernels::cpu
