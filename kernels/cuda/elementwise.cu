// Quantize, Rope, Hadamard, SiluMul, ScaleIndexWeights: a thread for each pack of eight elements,
// counted through all rows. At few rows their time is one launch and one trip to memory.
#include "kernels/cuda/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/packs.cuh"

namespace baleen::kernels::cuda {
namespace {

using Bf16 = __nv_bfloat16;

// Sixteen lanes hold a group. Threads beyond the last repeat it: whole warps shuffle.
template <int kAccess>
__global__ __launch_bounds__(kPackThreads) void QuantizeKernel(Rows<const Bf16> x,
                                                               unsigned row_packs, unsigned packs,
                                                               uint8_t* data, float* scales) {
  const unsigned pack = min(ThreadOfGrid(), packs - 1);
  float v[kPack];
  Unpack(LoadPack<kAccess>(x.At(pack / row_packs, pack % row_packs * kPack)), v);
  StoreQuantized(v, pack, ThreadOfGrid() < packs, data, scales);
}

// The pack of out at (row, column) comes from (row, column) and (row, column + width) of x.
template <int kAccess>
__global__ __launch_bounds__(kPackThreads) void SiluMulKernel(Rows<const Bf16> x, Rows<Bf16> out,
                                                              unsigned row_packs, unsigned packs,
                                                              uint8_t* data, float* scales) {
  const bool mine = ThreadOfGrid() < packs;
  const unsigned pack = min(ThreadOfGrid(), packs - 1);
  const unsigned row = pack / row_packs;
  const unsigned column = pack % row_packs * kPack;
  const auto gate_pack = LoadPack<kAccess>(x.At(row, column));
  const auto up_pack = LoadPack<kAccess>(x.At(row, column + row_packs * kPack));
  float gate[kPack], up[kPack];
  Unpack(gate_pack, gate);
  Unpack(up_pack, up);
#pragma unroll
  for (int i = 0; i < kPack; ++i) gate[i] = SiluTimes(gate[i], up[i]);
  const auto rounded = PackUp<Bf16, kAccess>(gate);
  if (out.data != nullptr && mine) StorePack(out.At(row, column), rounded);
  if (data == nullptr) return;
  Unpack(rounded, gate);
  StoreQuantized(gate, pack, mine, data, scales);
}

constexpr int kRopeBlocks = 6;  // an SM: leaves registers for all loads of a thread at once

struct RopeArgs {
  Rows<Bf16> x;
  int64_t head_stride = 0;
  int offset = 0;
  int half = 0;             // dims / 2
  unsigned head_units = 0;  // threads of a head
  unsigned row_units = 0;   // of a row
  unsigned units = 0;       // of all rows
  const int32_t* positions = nullptr;
  const float* cos = nullptr;  // [positions, half]
  const float* sin = nullptr;
};

// (a, b) -> (a cos - b sin, a sin + b cos)
template <int kPairs>
__device__ void Rotate(const float* cos, const float* sin, float (&a)[kPairs], float (&b)[kPairs]) {
  const auto cos_pack = LoadPack<16, kPairs>(cos);
  const auto sin_pack = LoadPack<16, kPairs>(sin);
  float c[kPairs], s[kPairs];
  Unpack(cos_pack, c);
  Unpack(sin_pack, s);
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const float first = a[j] * c[j] - b[j] * s[j];
    b[j] = a[j] * s[j] + b[j] * c[j];
    a[j] = first;
  }
}

// Four pairs (x[2j], x[2j + 1]) of one pack.
template <int kAccess>
__device__ void RotateInterleaved(Bf16* x, const float* cos, const float* sin) {
  float v[kPack], a[kPack / 2], b[kPack / 2];
  Unpack(LoadPack<kAccess>(x), v);
#pragma unroll
  for (int j = 0; j < kPack / 2; ++j) {
    a[j] = v[2 * j];
    b[j] = v[2 * j + 1];
  }
  Rotate(cos, sin, a, b);
#pragma unroll
  for (int j = 0; j < kPack / 2; ++j) {
    v[2 * j] = a[j];
    v[2 * j + 1] = b[j];
  }
  StorePack(x, PackUp<Bf16, kAccess>(v));
}

// Eight pairs (x[j], x[j + half]) of two packs.
template <int kAccess>
__device__ void RotateHalves(Bf16* x, int half, const float* cos, const float* sin) {
  const auto first = LoadPack<kAccess>(x);
  const auto second = LoadPack<kAccess>(x + half);
  float a[kPack], b[kPack];
  Unpack(first, a);
  Unpack(second, b);
  Rotate(cos, sin, a, b);
  StorePack(x, PackUp<Bf16, kAccess>(a));
  StorePack(x + half, PackUp<Bf16, kAccess>(b));
}

template <int kAccess, bool kInterleaved>
__global__ __launch_bounds__(kPackThreads, kRopeBlocks) void RopeKernel(RopeArgs a) {
  const unsigned unit = ThreadOfGrid();
  if (unit >= a.units) return;
  const unsigned row = unit / a.row_units;
  const unsigned head = unit % a.row_units / a.head_units;
  const unsigned part = unit % a.row_units % a.head_units;
  Bf16* x = a.x.At(row, head * a.head_stride + a.offset + part * kPack);
  const int pair = part * (kInterleaved ? kPack / 2 : kPack);
  const int64_t angle = int64_t{a.positions[row]} * a.half + pair;
  if constexpr (kInterleaved) {
    RotateInterleaved<kAccess>(x, a.cos + angle, a.sin + angle);
  } else {
    RotateHalves<kAccess>(x, a.half, a.cos + angle, a.sin + angle);
  }
}

// Sixteen lanes hold 128 elements: element 8 l + i is v[i] of lane l, so that the butterflies of
// distance 1, 2, 4 stay in a thread and those of 8 .. 64 go to lane l ^ 1 .. l ^ 8.
__device__ void Hadamard128(float (&v)[kPack]) {
#pragma unroll
  for (int distance = 1; distance < kPack; distance *= 2) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      if (i & distance) continue;
      const float a = v[i];
      const float b = v[i + distance];
      v[i] = a + b;
      v[i + distance] = a - b;
    }
  }
#pragma unroll
  for (int lane_distance = 1; lane_distance < kGroupPacks; lane_distance *= 2) {
    const float sign = (threadIdx.x & lane_distance) != 0 ? -1.0f : 1.0f;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const float partner = __shfl_xor_sync(kAllLanes, v[i], lane_distance);
      v[i] = fmaf(sign, v[i], partner);  // exact product: partner plus or minus v[i]
    }
  }
#pragma unroll
  for (int i = 0; i < kPack; ++i) v[i] *= 0.08838834764831845f;  // 128^-0.5
}

template <int kAccess>
__global__ __launch_bounds__(kPackThreads) void HadamardKernel(Rows<Bf16> x, unsigned row_packs,
                                                               unsigned packs) {
  const unsigned pack = min(ThreadOfGrid(), packs - 1);
  Bf16* at = x.At(pack / row_packs, pack % row_packs * kPack);
  float v[kPack];
  Unpack(LoadPack<kAccess>(at), v);
  Hadamard128(v);
  if (ThreadOfGrid() < packs) StorePack(at, PackUp<Bf16, kAccess>(v));
}

__global__ __launch_bounds__(kPackThreads) void ScaleIndexWeightsKernel(float* weights,
                                                                        const float* q_scales,
                                                                        float factor,
                                                                        unsigned count) {
  const unsigned i = ThreadOfGrid();
  if (i >= count) return;
  weights[i] *= factor * (q_scales != nullptr ? q_scales[i] : 1.0f);
}

// Whole heads of `dims` elements, in packs.
void CheckRope(const RopeParams& p) {
  BALEEN_CHECK(p.heads >= 1 && p.offset >= 0 && p.offset + p.dims <= p.head_stride);
  BALEEN_CHECK(int64_t{p.heads} * p.head_stride <= p.x.cols);
  BALEEN_CHECK_MSG(p.dims > 0 && p.dims % (p.interleaved ? kPack : 2 * kPack) == 0,
                   "a thread rotates 4 interleaved or 8 split pairs");
}

}  // namespace

void LaunchQuantize(const QuantizeParams& p, cudaStream_t stream) {
  CheckQuantized(p.out, p.x.rows, p.x.cols);
  const auto x = RowsOf<const Bf16>(p.x);
  if (p.x.rows == 0) return;
  const int row_packs = PacksOf(p.x.cols);
  const unsigned packs = ThreadsFor(p.x.rows, row_packs);
  WithAccess(AddressBits(p.x), [&](auto access) {
    QuantizeKernel<access.value><<<BlocksFor(packs), kPackThreads, 0, stream>>>(
        x, row_packs, packs, p.out.data, p.out.scales);
  });
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

void LaunchRope(const RopeParams& p, cudaStream_t stream) {
  CheckRope(p);
  const auto x = RowsOf<Bf16>(p.x);
  if (p.x.rows == 0) return;
  RopeArgs args = {.x = x,
                   .head_stride = p.head_stride,
                   .offset = p.offset,
                   .half = p.dims / 2,
                   .head_units = unsigned(p.dims / (p.interleaved ? kPack : 2 * kPack)),
                   .positions = p.positions,
                   .cos = p.cos,
                   .sin = p.sin};
  args.row_units = p.heads * args.head_units;
  args.units = ThreadsFor(p.x.rows, args.row_units);
  BALEEN_CHECK_MSG((AddressBits(p.cos) | AddressBits(p.sin)) % 16 == 0, "rows of 16 bytes");
  // Heads begin `offset` elements behind multiples of head_stride.
  const uintptr_t heads = (uintptr_t(p.head_stride) | uintptr_t(p.offset)) * sizeof(Bf16);
  WithAccess(AddressBits(p.x) | heads, [&](auto access) {
    const auto kernel =
        p.interleaved ? RopeKernel<access.value, true> : RopeKernel<access.value, false>;
    kernel<<<BlocksFor(args.units), kPackThreads, 0, stream>>>(args);
  });
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

void LaunchHadamard(const HadamardParams& p, cudaStream_t stream) {
  BALEEN_CHECK(p.x.cols % 128 == 0);
  const auto x = RowsOf<Bf16>(p.x);
  if (p.x.rows == 0) return;
  const int row_packs = PacksOf(p.x.cols);
  const unsigned packs = ThreadsFor(p.x.rows, row_packs);
  WithAccess(AddressBits(p.x), [&](auto access) {
    HadamardKernel<access.value>
        <<<BlocksFor(packs), kPackThreads, 0, stream>>>(x, row_packs, packs);
  });
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

void LaunchSiluMul(const SiluMulParams& p, cudaStream_t stream) {
  const int width = p.x.cols / 2;
  BALEEN_CHECK(p.x.cols % 2 == 0);
  BALEEN_CHECK(p.out.data == nullptr || (p.out.cols == width && p.out.rows == p.x.rows));
  if (p.quantized.data != nullptr) CheckQuantized(p.quantized, p.x.rows, width);
  const auto x = RowsOf<const Bf16>(p.x);
  const auto out = RowsOf<Bf16>(p.out);
  if (p.x.rows == 0) return;
  const int row_packs = PacksOf(width);
  const unsigned packs = ThreadsFor(p.x.rows, row_packs);
  const uintptr_t up = uintptr_t(width) * sizeof(Bf16);
  WithAccess(AddressBits(p.x) | AddressBits(p.out) | up, [&](auto access) {
    SiluMulKernel<access.value><<<BlocksFor(packs), kPackThreads, 0, stream>>>(
        x, out, row_packs, packs, p.quantized.data, p.quantized.scales);
  });
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

void LaunchScaleIndexWeights(const ScaleIndexWeightsParams& p, cudaStream_t stream) {
  const unsigned count = ThreadsFor(p.rows, p.heads);
  if (count == 0) return;
  ScaleIndexWeightsKernel<<<BlocksFor(count), kPackThreads, 0, stream>>>(p.weights, p.q_scales,
                                                                         p.factor, count);
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

}  // namespace baleen::kernels::cuda
