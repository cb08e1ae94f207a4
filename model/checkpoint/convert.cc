#include "model/checkpoint/convert.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/check.h"
#include "kernels/float_formats.h"

namespace baleen::model {
namespace {

template <typename T, typename Convert>
void Transpose(const float* in, int64_t rows, int64_t cols, T* out, Convert convert) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) out[c * rows + r] = convert(in[r * cols + c]);
  }
}

}  // namespace

float F16ToF32(uint16_t v) {
  const float sign = (v & 0x8000) != 0 ? -1.0f : 1.0f;
  const int exponent = (v >> 10) & 0x1F;
  const int mantissa = v & 0x3FF;
  if (exponent == 0x1F) {
    return mantissa != 0 ? std::numeric_limits<float>::quiet_NaN()
                         : sign * std::numeric_limits<float>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  return sign * std::ldexp(static_cast<float>(mantissa + 0x400), exponent - 25);
}

void ConvertToF32(FileDType dtype, const std::byte* in, size_t count, float* out) {
  if (dtype == FileDType::kF32) {
    std::memcpy(out, in, count * sizeof(float));
    return;
  }
  BALEEN_CHECK(dtype == FileDType::kBf16 || dtype == FileDType::kF16);
  for (size_t i = 0; i < count; ++i) {
    uint16_t v;
    std::memcpy(&v, in + i * sizeof(v), sizeof(v));
    out[i] = dtype == FileDType::kBf16 ? kernels::Bf16ToF32(v) : F16ToF32(v);
  }
}

void DequantizeF8(const std::byte* in, const std::byte* scales, int64_t first_row, int64_t rows,
                  int64_t cols, float* out) {
  const auto* q = reinterpret_cast<const uint8_t*>(in);
  const int64_t scale_cols = ScaleBlocks(cols);
  for (int64_t r = first_row; r < first_row + rows; ++r) {
    for (int64_t block = 0; block < scale_cols; ++block) {
      float scale;
      std::memcpy(&scale, scales + (r / kScaleBlock * scale_cols + block) * sizeof(scale),
                  sizeof(scale));
      const int64_t end = std::min(cols, (block + 1) * kScaleBlock);
      for (int64_t c = block * kScaleBlock; c < end; ++c) {
        *out++ = kernels::E4m3ToF32(q[r * cols + c]) * scale;
      }
    }
  }
}

void RoundTo(DType dtype, const float* in, size_t count, std::byte* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, in, count * sizeof(float));
    return;
  }
  BALEEN_CHECK(dtype == DType::kBf16);
  std::transform(in, in + count, reinterpret_cast<uint16_t*>(out), kernels::F32ToBf16);
}

void TransposeTo(DType dtype, const float* in, int64_t rows, int64_t cols, std::byte* out) {
  if (dtype == DType::kF32) {
    return Transpose(in, rows, cols, reinterpret_cast<float*>(out), [](float v) { return v; });
  }
  BALEEN_CHECK(dtype == DType::kBf16);
  Transpose(in, rows, cols, reinterpret_cast<uint16_t*>(out), kernels::F32ToBf16);
}

}  // namespace baleen::model
