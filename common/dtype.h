#pragma once

#include <cstddef>
#include <cstdint>

namespace baleen {

enum class DType : uint8_t { kF32, kBf16, kF8E4M3 };

constexpr size_t DTypeBytes(DType t) {
  switch (t) {
    case DType::kF32:
      return 4;
    case DType::kBf16:
      return 2;
    case DType::kF8E4M3:
      return 1;
  }
  return 0;
}

// Arithmetic of a whole process (../docs/decisions/0002-numerics.md).
//   kExact: fp32 activations and cache, dequantised weights; CPU only; what the goldens test
//   kFp8:   bf16 activations, fp8 GEMM inputs (1x128 groups, power-of-two scales), 656 B cache rows
enum class Numerics : uint8_t { kExact, kFp8 };

constexpr DType ActivationDType(Numerics n) {
  return n == Numerics::kExact ? DType::kF32 : DType::kBf16;
}

}  // namespace baleen
