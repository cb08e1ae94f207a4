#pragma once

#include <cstddef>
#include <cstdint>

#include "common/dtype.h"
#include "model/checkpoint/safetensors.h"

namespace baleen::model {

inline constexpr int kScaleBlock = 128;  // a weight's rows and columns that share one scale
constexpr int64_t ScaleBlocks(int64_t n) { return (n + kScaleBlock - 1) / kScaleBlock; }

float F16ToF32(uint16_t v);

// `count` elements of F32, BF16 or F16 to f32. `in` need not be aligned.
void ConvertToF32(FileDType dtype, const std::byte* in, size_t count, float* out);

// Rows [first_row, first_row + rows) of an fp8 matrix [*, cols] to f32:
//   out[r, c] = fp8 * scales[row / 128, col / 128]   (4.2)
// `in` points at the matrix's first element; `scales` is [*, ceil(cols / 128)] f32, unaligned.
void DequantizeF8(const std::byte* in, const std::byte* scales, int64_t first_row, int64_t rows,
                  int64_t cols, float* out);

// `count` values rounded to `dtype`, kF32 or kBf16. `out` is aligned to it.
void RoundTo(DType dtype, const float* in, size_t count, std::byte* out);

// The same of `in` [rows, cols] as `out` [cols, rows].
void TransposeTo(DType dtype, const float* in, int64_t rows, int64_t cols, std::byte* out);

}  // namespace baleen::model
