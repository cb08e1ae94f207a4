#pragma once

#include <cstdint>

#include "kernels/cuda/ptx.cuh"

// The two products of sparse attention, on bf16 tiles in shared memory that hold 64 columns in each
// row of 128 bytes, swizzled, groups of 8 rows 1024 bytes apart (SharedMemory in layout.cuh).
namespace baleen::kernels::cuda::ptx {

// The tile as the N-major B operand: its rows are K, its columns N. From 64 columns to the next 64
// it is `panel_bytes`. Advance along K by 128 bytes a row.
__device__ inline uint64_t WgmmaDescriptorNMajor128(const void* tile, uint32_t panel_bytes) {
  constexpr uint64_t kLeadingMask = uint64_t{0x3FFF} << 16;
  return (WgmmaDescriptor128(tile) & ~kLeadingMask) | uint64_t{panel_bytes >> 4} << 16;
}

// `bytes` further on. The address is the low word, and no tile's end overflows its 14 bits.
__device__ inline uint64_t WgmmaAdvance(uint64_t descriptor, uint32_t bytes) {
  constexpr uint64_t kHighWord = uint64_t{0xFFFFFFFF} << 32;
  return (descriptor & kHighWord) | (static_cast<uint32_t>(descriptor) + (bytes >> 4));
}

// The same value, of which the compiler knows nothing: what follows from it is not kept in
// registers from one use of Opaque to the next.
__device__ inline uint64_t Opaque(uint64_t v) {
  asm volatile("" : "+l"(v));
  return v;
}

#define BALEEN_FOUR(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])

// d (+)= A B^T: A is 64 rows of 16, B 32 rows of 16, both K-major. Lane l of warp w of the
// warpgroup holds d[4 j + 2 i + e] = element (16 w + 8 i + l / 4, 8 j + 2 (l % 4) + e).
__device__ inline void WgmmaM64N32K16Bf16(float (&d)[16], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred accumulate;\n"
      "setp.ne.b32 accumulate, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
      "%16, %17, accumulate, 1, 1, 0, 0;\n"
      "}\n"
      : BALEEN_FOUR(0), BALEEN_FOUR(4), BALEEN_FOUR(8), BALEEN_FOUR(12)
      : "l"(a), "l"(b), "r"(int{accumulate}));
}

// d (+)= A B: A is 64 rows of 16, K-major; B is 16 rows of 256, N-major. d as above.
__device__ inline void WgmmaM64N256K16Bf16NMajor(float (&d)[128], uint64_t a, uint64_t b,
                                                 bool accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred accumulate;\n"
      "setp.ne.b32 accumulate, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      " %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      " %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      " %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, "
      " %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, "
      " %120, %121, %122, %123, %124, %125, %126, %127}, "
      "%128, %129, accumulate, 1, 1, 0, 1;\n"
      "}\n"
      : BALEEN_FOUR(0), BALEEN_FOUR(4), BALEEN_FOUR(8), BALEEN_FOUR(12), BALEEN_FOUR(16),
        BALEEN_FOUR(20), BALEEN_FOUR(24), BALEEN_FOUR(28), BALEEN_FOUR(32), BALEEN_FOUR(36),
        BALEEN_FOUR(40), BALEEN_FOUR(44), BALEEN_FOUR(48), BALEEN_FOUR(52), BALEEN_FOUR(56),
        BALEEN_FOUR(60), BALEEN_FOUR(64), BALEEN_FOUR(68), BALEEN_FOUR(72), BALEEN_FOUR(76),
        BALEEN_FOUR(80), BALEEN_FOUR(84), BALEEN_FOUR(88), BALEEN_FOUR(92), BALEEN_FOUR(96),
        BALEEN_FOUR(100), BALEEN_FOUR(104), BALEEN_FOUR(108), BALEEN_FOUR(112), BALEEN_FOUR(116),
        BALEEN_FOUR(120), BALEEN_FOUR(124)
      : "l"(a), "l"(b), "r"(int{accumulate}));
}

#undef BALEEN_FOUR

}  // namespace baleen::kernels::cuda::ptx
