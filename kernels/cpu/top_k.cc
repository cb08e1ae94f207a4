// TopK (3.4).
#include <algorithm>
#include <numeric>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd.h"

namespace baleen::kernels::cpu {

void CpuBackend::TopK(const TopKParams& p) {
  int64_t total = 0;
  for (int r = 0; r < p.rows; ++r) total += p.positions[r] + 1;
  ForEachRow(p.rows, p.rows > 0 ? 20 * total / p.rows : 0, [&](Scratch& scratch, int64_t r) {
    const int n = p.positions[r] + 1;
    int32_t* indices = p.indices + r * p.k;
    if (n > p.k) {
      simd::SelectLargest(p.logits + r * p.logits_stride, n, p.k,
                          scratch.scores.Get<uint32_t>(size_t{2} * n), indices);
      return;
    }
    std::iota(indices, indices + n, 0);
    std::fill(indices + n, indices + p.k, -1);
  });
}

}  // namespace baleen::kernels::cpu
