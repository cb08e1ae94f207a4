#pragma once

#include <climits>
#include <type_traits>

#include "common/check.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/tensor.h"

// How the kernels that are bound by memory move rows: each thread holds packs of eight consecutive
// elements. Which thread holds which elements depends on the shape only; `kAccess`, the bytes of
// one load or store, on how the rows at hand are aligned. So alignment never changes a result.
namespace baleen::kernels::cuda {

inline constexpr int kPack = 8;                          // elements
inline constexpr int kGroupPacks = kQuantGroup / kPack;  // packs that share a scale
inline constexpr int kPackThreads = 256;                 // a block where nothing else decides it

template <typename T, int kAccess, int kElements = kPack>
struct alignas(kAccess) Pack {
  uint32_t words[kElements * sizeof(T) / sizeof(uint32_t)];
};

__device__ inline unsigned ThreadOfGrid() { return blockIdx.x * kPackThreads + threadIdx.x; }

// A matrix of a known dtype, as a kernel parameter.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;

  __device__ T* At(int64_t row, int64_t column) const { return data + row * stride + column; }
};

template <typename T>
Rows<T> RowsOf(const Matrix& m) {
  const DType dtype = std::is_same_v<std::remove_const_t<T>, float> ? DType::kF32 : DType::kBf16;
  BALEEN_CHECK_MSG(m.data == nullptr || m.dtype == dtype, "the GPU computes with bf16 activations");
  return {static_cast<T*>(m.data), m.stride};
}

template <int kAccess, int kElements = kPack, typename T>
__device__ Pack<std::remove_const_t<T>, kAccess, kElements> LoadPack(T* from) {
  return *reinterpret_cast<const Pack<std::remove_const_t<T>, kAccess, kElements>*>(from);
}

template <typename T, int kAccess, int kElements>
__device__ void StorePack(T* to, const Pack<T, kAccess, kElements>& pack) {
  *reinterpret_cast<Pack<T, kAccess, kElements>*>(to) = pack;
}

template <int kAccess, int kElements>
__device__ void Unpack(const Pack<float, kAccess, kElements>& pack, float (&v)[kElements]) {
#pragma unroll
  for (int i = 0; i < kElements; ++i) v[i] = __uint_as_float(pack.words[i]);
}
template <int kAccess, int kElements>
__device__ void Unpack(const Pack<__nv_bfloat16, kAccess, kElements>& pack, float (&v)[kElements]) {
#pragma unroll
  for (int i = 0; i < kElements / 2; ++i) {
    v[2 * i] = __uint_as_float(pack.words[i] << 16);
    v[2 * i + 1] = __uint_as_float(pack.words[i] & 0xFFFF0000u);
  }
}

// Rounded to T once.
template <typename T, int kAccess, int kElements>
__device__ Pack<T, kAccess, kElements> PackUp(const float (&v)[kElements]) {
  Pack<T, kAccess, kElements> pack;
  if constexpr (std::is_same_v<T, float>) {
#pragma unroll
    for (int i = 0; i < kElements; ++i) pack.words[i] = __float_as_uint(v[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kElements / 2; ++i) {
      const __nv_bfloat162 both = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
      pack.words[i] = *reinterpret_cast<const uint32_t*>(&both);
    }
  }
  return pack;
}

// Pack number `pack` of dense fp8 rows, and its group's scale. The whole warp calls it; the lanes
// of a group agree about `wanted`.
__device__ inline void StoreQuantized(const float (&v)[kPack], int64_t pack, bool wanted,
                                      uint8_t* data, float* scales) {
  const float scale = GroupScale(v);
  if (!wanted) return;
  uint32_t bytes[kPack / 4];
  QuantizeShare(v, scale, bytes);
  *reinterpret_cast<uint2*>(data + pack * kPack) = {bytes[0], bytes[1]};
  if (pack % kGroupPacks == 0) scales[pack / kGroupPacks] = scale;
}

// For the launchers.

// The low bits tell how the matrix's rows are aligned; those of several matrices are joined by |.
inline uintptr_t AddressBits(const Matrix& m) {
  if (m.data == nullptr) return 0;
  return reinterpret_cast<uintptr_t>(m.data) |
         (static_cast<uintptr_t>(m.stride) * DTypeBytes(m.dtype));
}
inline uintptr_t AddressBits(const void* p) { return reinterpret_cast<uintptr_t>(p); }

// Calls launch(std::integral_constant<int, kAccess>) with the widest access the addresses allow.
template <typename Launch>
void WithAccess(uintptr_t address_bits, const Launch& launch) {
  if (address_bits % 16 == 0) {
    launch(std::integral_constant<int, 16>());
    return;
  }
  BALEEN_CHECK_MSG(address_bits % 8 == 0, "rows must be aligned to 8 bytes");
  launch(std::integral_constant<int, 8>());
}

inline int PacksOf(int columns) {
  BALEEN_CHECK_MSG(columns % kPack == 0, "rows are moved in packs of eight elements");
  return columns / kPack;
}

// rows * per_row, for kernels whose threads count through all rows.
inline unsigned ThreadsFor(int rows, int per_row) {
  const int64_t threads = int64_t{rows} * per_row;
  BALEEN_CHECK_MSG(threads <= INT_MAX - kPackThreads, "more threads than a 32-bit index can count");
  return static_cast<unsigned>(threads);
}
inline unsigned BlocksFor(unsigned threads, int block = kPackThreads) {
  return (threads + block - 1) / block;
}

inline void CheckQuantized(const Quantized& q, int rows, int cols) {
  BALEEN_CHECK(q.rows == rows && q.cols == cols && cols % kQuantGroup == 0);
  BALEEN_CHECK_MSG(AddressBits(q.data) % 16 == 0, "fp8 rows are dense and aligned to 16 bytes");
}

}  // namespace baleen::kernels::cuda
