// Quantize, Rope, Hadamard, SiluMul, ScaleIndexWeights.
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/rows.h"

namespace baleen::kernels::cpu {
void CpuBackend::Quantize(const QuantizeParams& p) {
  CheckQuantized(p.out, p.x.rows, p.x.cols);
  ForEachRow(p.x.rows, p.x.cols, [&](Scratch& scratch, int64_t r) {
    QuantizeRow(ReadRow(p.x, r, scratch.input), p.out, r);
  });
}

void CpuBackend::Rope(const RopeParams& p) {
  BALEEN_CHECK(p.dims % 2 == 0 && p.offset + p.dims <= p.head_stride);
  BALEEN_CHECK(int64_t{p.heads} * p.head_stride <= p.x.cols);
  const int half = p.dims / 2;
  ForEachRow(p.x.rows, int64_t{4} * p.heads * p.dims, [&](Scratch& scratch, int64_t r) {
    const float* cos = p.cos + int64_t{p.positions[r]} * half;
    const float* sin = p.sin + int64_t{p.positions[r]} * half;
    for (int h = 0; h < p.heads; ++h) {
      const int64_t begin = int64_t{h} * p.head_stride + p.offset;
      if (p.x.dtype == DType::kF32) {
        simd::Rotate(p.x.row<float>(r) + begin, half, p.interleaved, cos, sin);
        continue;
      }
      float* x = scratch.input.Get<float>(p.dims);
      ReadSpan(p.x, r, begin, p.dims, x);
      simd::Rotate(x, half, p.interleaved, cos, sin);
      WriteSpan(x, p.x, r, begin, p.dims);
    }
  });
}

void CpuBackend::Hadamard(const HadamardParams& p) {
  BALEEN_CHECK(p.x.cols % 128 == 0);
  ForEachRow(p.x.rows, int64_t{4} * p.x.cols, [&](Scratch& scratch, int64_t r) {
    for (int c = 0; c < p.x.cols; c += 128) {
      if (p.x.dtype == DType::kF32) {
        simd::Hadamard128(p.x.row<float>(r) + c);
        continue;
      }
      float* x = scratch.input.Get<float>(128);
      ReadSpan(p.x, r, c, 128, x);
      simd::Hadamard128(x);
      WriteSpan(x, p.x, r, c, 128);
    }
  });
}

void CpuBackend::SiluMul(const SiluMulParams& p) {
  const int width = p.x.cols / 2;
  const bool quantized = p.quantized.data != nullptr;
  BALEEN_CHECK(p.x.cols % 2 == 0 && (p.out.data == nullptr || p.out.cols == width));
  if (quantized) CheckQuantized(p.quantized, p.x.rows, width);
  ForEachRow(p.x.rows, int64_t{8} * width, [&](Scratch& scratch, int64_t r) {
    const float* x = ReadRow(p.x, r, scratch.input);
    float* out = scratch.output.Get<float>(width);
    simd::SiluMul(x, x + width, width, out);
    if (p.out.data != nullptr) WriteRow(out, p.out, r);
    if (!quantized) return;
    if (p.x.dtype == DType::kBf16) simd::RoundToBf16(out, width);
    QuantizeRow(out, p.quantized, r);
  });
}

void CpuBackend::ScaleIndexWeights(const ScaleIndexWeightsParams& p) {
  const int64_t count = int64_t{p.rows} * p.heads;
  for (int64_t i = 0; i < count; ++i) {
    p.weights[i] *= p.factor * (p.q_scales != nullptr ? p.q_scales[i] : 1.0f);
  }
}

}  // namespace baleen::kernels::cpu
