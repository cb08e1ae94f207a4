#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "kernels/cuda/ptx.cuh"

// d (+)= A B^T in fp32: A is 64 rows, B 16, 64 or 128 rows, both K-major in shared memory. Lane l
// of warp w of the warpgroup holds d[4 j + 2 i + e] = element (16 w + 8 i + l / 4, 8 j + 2 (l % 4)
// + e).
namespace baleen::kernels::cuda::ptx {

#define BALEEN_FOUR(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])

__device__ inline void WgmmaM64N16K32E4m3(float (&d)[8], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred accumulate;\n"
      "setp.ne.b32 accumulate, %10, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k32.f32.e4m3.e4m3 "
      "{%0, %1, %2, %3, %4, %5, %6, %7}, "
      "%8, %9, accumulate, 1, 1;\n"
      "}\n"
      : BALEEN_FOUR(0), BALEEN_FOUR(4)
      : "l"(a), "l"(b), "r"(int{accumulate}));
}

__device__ inline void WgmmaM64N64K32E4m3(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred accumulate;\n"
      "setp.ne.b32 accumulate, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, accumulate, 1, 1;\n"
      "}\n"
      : BALEEN_FOUR(0), BALEEN_FOUR(4), BALEEN_FOUR(8), BALEEN_FOUR(12), BALEEN_FOUR(16),
        BALEEN_FOUR(20), BALEEN_FOUR(24), BALEEN_FOUR(28)
      : "l"(a), "l"(b), "r"(int{accumulate}));
}

__device__ inline void WgmmaM64N16K16Bf16(float (&d)[8], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred accumulate;\n"
      "setp.ne.b32 accumulate, %10, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7}, "
      "%8, %9, accumulate, 1, 1, 0, 0;\n"
      "}\n"
      : BALEEN_FOUR(0), BALEEN_FOUR(4)
      : "l"(a), "l"(b), "r"(int{accumulate}));
}

__device__ inline void WgmmaM64N64K16Bf16(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred accumulate;\n"
      "setp.ne.b32 accumulate, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, accumulate, 1, 1, 0, 0;\n"
      "}\n"
      : BALEEN_FOUR(0), BALEEN_FOUR(4), BALEEN_FOUR(8), BALEEN_FOUR(12), BALEEN_FOUR(16),
        BALEEN_FOUR(20), BALEEN_FOUR(24), BALEEN_FOUR(28)
      : "l"(a), "l"(b), "r"(int{accumulate}));
}

__device__ inline void WgmmaM64N128K16Bf16(float (&d)[64], uint64_t a, uint64_t b,
                                           bool accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred accumulate;\n"
      "setp.ne.b32 accumulate, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, accumulate, 1, 1, 0, 0;\n"
      "}\n"
      : BALEEN_FOUR(0), BALEEN_FOUR(4), BALEEN_FOUR(8), BALEEN_FOUR(12), BALEEN_FOUR(16),
        BALEEN_FOUR(20), BALEEN_FOUR(24), BALEEN_FOUR(28), BALEEN_FOUR(32), BALEEN_FOUR(36),
        BALEEN_FOUR(40), BALEEN_FOUR(44), BALEEN_FOUR(48), BALEEN_FOUR(52), BALEEN_FOUR(56),
        BALEEN_FOUR(60)
      : "l"(a), "l"(b), "r"(int{accumulate}));
}

#undef BALEEN_FOUR

}  // namespace baleen::kernels::cuda::ptx

namespace baleen::kernels::cuda::gemm {

// 32 bytes of K of each row.
template <DType kType, int kRows>
__device__ void Wgmma(float (&d)[kRows / 2], uint64_t a, uint64_t b, bool accumulate) {
  constexpr bool kFp8 = kType == DType::kF8E4M3;
  static_assert(kFp8 || kType == DType::kBf16);
  static_assert(kRows == 16 || kRows == 64 || kRows == 128);
  if constexpr (kFp8 && kRows == 16) {
    ptx::WgmmaM64N16K32E4m3(d, a, b, accumulate);
  } else if constexpr (kFp8 && kRows == 64) {
    ptx::WgmmaM64N64K32E4m3(d, a, b, accumulate);
  } else if constexpr (kFp8) {
    ptx::WgmmaM64N128K32E4m3(d, a, b, accumulate);
  } else if constexpr (kRows == 16) {
    ptx::WgmmaM64N16K16Bf16(d, a, b, accumulate);
  } else if constexpr (kRows == 64) {
    ptx::WgmmaM64N64K16Bf16(d, a, b, accumulate);
  } else {
    ptx::WgmmaM64N128K16Bf16(d, a, b, accumulate);
  }
}

}  // namespace baleen::kernels::cuda::gemm
