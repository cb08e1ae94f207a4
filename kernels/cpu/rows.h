#pragma once

#include <cstring>

#include "common/check.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/simd.h"
#include "kernels/float_formats.h"
#include "kernels/tensor.h"

// Rows of activations as f32, whatever they are stored in.
namespace baleen::kernels::cpu {

// `cols` elements of row r from `begin` as f32: in place when they are f32, else in `buffer`.
inline const float* ReadSpan(const Matrix& m, int64_t r, int64_t begin, int64_t cols,
                             float* buffer) {
  if (m.dtype == DType::kF32) return m.row<float>(r) + begin;
  BALEEN_CHECK(m.dtype == DType::kBf16);
  simd::Bf16ToF32(m.row<uint16_t>(r) + begin, cols, buffer);
  return buffer;
}

// The whole row, in `buffer` unless it is f32.
inline const float* ReadRow(const Matrix& m, int64_t r, ScratchBuffer& buffer) {
  return ReadSpan(m, r, 0, m.cols, m.dtype == DType::kF32 ? nullptr : buffer.Get<float>(m.cols));
}

// `cols` elements of row r from `begin`, rounded once to the matrix's dtype.
inline void WriteSpan(const float* v, const Matrix& m, int64_t r, int64_t begin, int64_t cols) {
  if (m.dtype == DType::kF32) {
    if (v != m.row<float>(r) + begin) std::memcpy(m.row<float>(r) + begin, v, cols * sizeof(float));
    return;
  }
  BALEEN_CHECK(m.dtype == DType::kBf16);
  simd::F32ToBf16(v, cols, m.row<uint16_t>(r) + begin);
}

inline void WriteRow(const float* v, const Matrix& m, int64_t r) { WriteSpan(v, m, r, 0, m.cols); }

inline void QuantizeRow(const float* x, const Quantized& q, int64_t r) {
  const int groups = q.cols / kQuantGroup;
  for (int g = 0; g < groups; ++g) {
    q.scales[r * groups + g] = simd::QuantizeGroup(x + g * kQuantGroup, kQuantGroup,
                                                   q.data + r * q.cols + int64_t{g} * kQuantGroup);
  }
}

inline void DequantizeRow(const Quantized& q, int64_t r, float* out) {
  const int groups = q.cols / kQuantGroup;
  for (int g = 0; g < groups; ++g) {
    simd::DecodeE4m3(q.data + r * q.cols + int64_t{g} * kQuantGroup, kQuantGroup,
                     q.scales[r * groups + g], out + g * kQuantGroup);
  }
}

// What quantising and dequantising a row leaves of it, in place.
inline void QuantizeDequantize(float* x, int cols) {
  uint8_t q[kQuantGroup];
  for (int c = 0; c < cols; c += kQuantGroup) {
    const float scale = simd::QuantizeGroup(x + c, kQuantGroup, q);
    simd::DecodeE4m3(q, kQuantGroup, scale, x + c);
  }
}

inline void CheckQuantized(const Quantized& q, int rows, int cols) {
  BALEEN_CHECK(q.rows == rows && q.cols == cols && cols % kQuantGroup == 0);
}

}  // namespace baleen::kernels::cpu
