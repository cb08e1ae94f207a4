// AddRmsNorm, LayerNorm (3.0, 3.4).
#include <cmath>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/rows.h"

namespace baleen::kernels::cpu {

void CpuBackend::AddRmsNorm(const AddRmsNormParams& p) {
  const int dim = p.x.cols;
  const bool quantized = p.quantized.data != nullptr;
  if (quantized) CheckQuantized(p.quantized, p.x.rows, dim);
  ForEachRow(p.x.rows, 2 * dim, [&](Scratch& scratch, int64_t r) {
    const float* sum = ReadRow(p.x, r, scratch.input);
    if (p.residual.data != nullptr) {
      const float* residual = ReadRow(p.residual, r, scratch.middle);
      float* unrounded = scratch.scores.Get<float>(dim);
      simd::Add(sum, residual, dim, unrounded);
      sum = unrounded;
    }
    float* out = scratch.output.Get<float>(dim);
    if (p.out.data != nullptr || quantized) {
      const float rms = 1.0f / std::sqrt(simd::SumOfSquares(sum, dim) / dim + p.eps);
      simd::MultiplyScaled(sum, p.weight, rms, dim, out);
    }
    if (p.residual_out.data != nullptr) WriteRow(sum, p.residual_out, r);
    if (p.out.data != nullptr) WriteRow(out, p.out, r);
    if (!quantized) return;
    if (p.out.data == nullptr || p.out.dtype == DType::kBf16) simd::RoundToBf16(out, dim);
    QuantizeRow(out, p.quantized, r);
  });
}

void CpuBackend::LayerNorm(const LayerNormParams& p) {
  const int cols = p.x.cols;
  BALEEN_CHECK(p.out.cols == cols);
  ForEachRow(p.x.rows, 4 * cols, [&](Scratch& scratch, int64_t r) {
    const float* x = ReadRow(p.x, r, scratch.input);
    float* out = scratch.output.Get<float>(cols);
    const float mean = simd::Sum(x, cols) / cols;
    for (int c = 0; c < cols; ++c) out[c] = x[c] - mean;
    const float scale = 1.0f / std::sqrt(simd::SumOfSquares(out, cols) / cols + p.eps);
    simd::MultiplyScaled(out, p.weight, scale, cols, out);
    simd::Add(out, p.bias, cols, out);
    WriteRow(out, p.out, r);
  });
}

}  // namespace baleen::kernels::cpu
