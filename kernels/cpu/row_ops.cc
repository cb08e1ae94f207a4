// Ops that only move or add rows: Embed, Combine, GatherRows, Concat.
#include <cstring>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/rows.h"

namespace baleen::kernels::cpu {

void CpuBackend::Embed(const EmbedParams& p) {
  BALEEN_CHECK(p.table.cols == p.out.cols);
  ForEachRow(p.out.rows, p.out.cols, [&](Scratch& scratch, int64_t r) {
    BALEEN_CHECK(p.ids[r] >= 0 && p.ids[r] < p.table.rows);
    WriteRow(ReadRow(p.table, p.ids[r], scratch.input), p.out, r);
  });
}

void CpuBackend::Combine(const CombineParams& p) {
  const int dim = p.y.cols;
  BALEEN_CHECK(p.expert_out.cols == dim && p.shared.cols == dim);
  ForEachRow(p.y.rows, int64_t{p.topk} * dim, [&](Scratch& scratch, int64_t r) {
    float* sum = scratch.output.Get<float>(dim);
    std::memset(sum, 0, dim * sizeof(float));
    for (int j = 0; j < p.topk; ++j) {
      const float weight = p.weights[r * p.topk + j];
      if (weight == 0) continue;  // the row may never have been written
      simd::AddScaled(ReadRow(p.expert_out, r * p.topk + j, scratch.input), weight, dim, sum);
    }
    simd::Add(sum, ReadRow(p.shared, r, scratch.input), dim, sum);
    WriteRow(sum, p.y, r);
  });
}

void CpuBackend::GatherRows(const GatherRowsParams& p) {
  BALEEN_CHECK(p.x.dtype == p.out.dtype && p.x.cols == p.out.cols);
  const size_t element = DTypeBytes(p.x.dtype);
  ForEachRow(p.out.rows, p.out.cols, [&](Scratch&, int64_t r) {
    BALEEN_CHECK(p.index[r] >= 0 && p.index[r] < p.x.rows);
    std::memcpy(static_cast<std::byte*>(p.out.data) + r * p.out.stride * element,
                static_cast<const std::byte*>(p.x.data) + p.index[r] * p.x.stride * element,
                p.out.cols * element);
  });
}

void CpuBackend::Concat(const ConcatParams& p) {
  BALEEN_CHECK(p.a.cols + p.b.cols == p.out.cols);
  BALEEN_CHECK(p.a.rows == p.out.rows && p.b.rows == p.out.rows);
  ForEachRow(p.out.rows, p.out.cols, [&](Scratch& scratch, int64_t r) {
    WriteSpan(ReadRow(p.a, r, scratch.input), p.out, r, 0, p.a.cols);
    WriteSpan(ReadRow(p.b, r, scratch.input), p.out, r, p.a.cols, p.b.cols);
  });
}

}  // namespace baleen::kernels::cpu
