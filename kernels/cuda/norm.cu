// AddRmsNorm, LayerNorm (3.0, 3.4). A row is read once and stays in registers.
#include "kernels/cuda/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/packs.cuh"

namespace baleen::kernels::cuda {
namespace {

using Bf16 = __nv_bfloat16;

// DeepSeek-V3.2's 7168 columns are 448 threads of two packs, two blocks an SM: 57 KB in flight. A
// third block would need spills.
constexpr int kMaxThreads = 512;
constexpr int kMaxPacksPerThread = 4;

template <typename X, typename Sum>
struct AddRmsNormArgs {
  Rows<const X> x;
  Rows<const Bf16> residual;  // or nullptr
  Rows<Sum> sum;              // or nullptr
  const float* weight;        // nullptr: only the sum
  Rows<Bf16> out;             // or nullptr
  uint8_t* data;              // out in fp8, or nullptr
  float* scales;
  unsigned packs;  // of a row
  float eps;
};

// Sum over the block in an order that its size decides; every thread gets it. Once a kernel.
__device__ float SumOfBlock(float v) {
  __shared__ float partial[kMaxThreads / kWarpThreads];
  v = WarpSum(v);
  if (threadIdx.x % kWarpThreads == 0) partial[threadIdx.x / kWarpThreads] = v;
  __syncthreads();
  float sum = 0;
  for (unsigned w = 0; w < blockDim.x / kWarpThreads; ++w) sum += partial[w];
  return sum;
}

// -0 is what leaves every x as it is, x = -0 too.
template <int kAccess>
__device__ Pack<Bf16, kAccess> NegativeZeros() {
  return {0x80008000u, 0x80008000u, 0x80008000u, 0x80008000u};
}

// Grid: a block for each row; thread t has the row's packs t, t + blockDim.x, ... Threads beyond
// the row repeat its last pack and store nothing, so that every load is issued before the first
// value is used. Outputs over inputs are safe: a thread writes only elements it has read itself.
template <typename X, typename Sum, int kPacks, int kAccess>
__global__ __launch_bounds__(kMaxThreads) void AddRmsNormKernel(AddRmsNormArgs<X, Sum> a) {
  const int64_t row = blockIdx.x;
  unsigned pack[kPacks];
  Pack<X, kAccess> x[kPacks];
  Pack<Bf16, kAccess> residual[kPacks];
  Pack<float, 16> weight[kPacks];
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    pack[i] = min(i * blockDim.x + threadIdx.x, a.packs - 1);
    x[i] = LoadPack<kAccess>(a.x.At(row, pack[i] * kPack));
    residual[i] = NegativeZeros<kAccess>();
  }
  if (a.residual.data != nullptr) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      residual[i] = LoadPack<kAccess>(a.residual.At(row, pack[i] * kPack));
    }
  }
  if (a.weight != nullptr) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) weight[i] = LoadPack<16>(a.weight + pack[i] * kPack);
  }

  float sum[kPacks][kPack];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const bool mine = i * blockDim.x + threadIdx.x < a.packs;
    float r[kPack];
    Unpack(x[i], sum[i]);
    Unpack(residual[i], r);
#pragma unroll
    for (int c = 0; c < kPack; ++c) {
      sum[i][c] += r[c];
      squares += mine ? sum[i][c] * sum[i][c] : 0.0f;
    }
    if (mine && a.sum.data != nullptr) {
      StorePack(a.sum.At(row, pack[i] * kPack), PackUp<Sum, kAccess>(sum[i]));
    }
  }
  if (a.weight == nullptr) return;
  const float scale = 1.0f / sqrtf(SumOfBlock(squares) / (a.packs * kPack) + a.eps);

#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const bool mine = i * blockDim.x + threadIdx.x < a.packs;
    float w[kPack];
    Unpack(weight[i], w);
#pragma unroll
    for (int c = 0; c < kPack; ++c) w[c] *= sum[i][c] * scale;
    const auto rounded = PackUp<Bf16, kAccess>(w);
    if (mine && a.out.data != nullptr) StorePack(a.out.At(row, pack[i] * kPack), rounded);
    if (a.data == nullptr) continue;
    Unpack(rounded, w);
    StoreQuantized(w, row * a.packs + pack[i], mine, a.data, a.scales);
  }
}

template <typename X, typename Sum, int kAccess>
void LaunchRows(const AddRmsNormArgs<X, Sum>& args, int rows, cudaStream_t stream) {
  unsigned packs_per_thread = 1;
  while (packs_per_thread * kMaxThreads < args.packs) packs_per_thread *= 2;
  BALEEN_CHECK_MSG(packs_per_thread <= kMaxPacksPerThread, "a row must fit into registers");
  const unsigned threads = (args.packs + packs_per_thread - 1) / packs_per_thread;
  const auto kernel = packs_per_thread == 1   ? AddRmsNormKernel<X, Sum, 1, kAccess>
                      : packs_per_thread == 2 ? AddRmsNormKernel<X, Sum, 2, kAccess>
                                              : AddRmsNormKernel<X, Sum, 4, kAccess>;
  kernel<<<rows, (threads + kWarpThreads - 1) / kWarpThreads * kWarpThreads, 0, stream>>>(args);
}

template <typename X, typename Sum>
void LaunchTyped(const AddRmsNormParams& p, cudaStream_t stream) {
  const AddRmsNormArgs<X, Sum> args = {.x = RowsOf<const X>(p.x),
                                       .residual = RowsOf<const Bf16>(p.residual),
                                       .sum = RowsOf<Sum>(p.residual_out),
                                       .weight = p.weight,
                                       .out = RowsOf<Bf16>(p.out),
                                       .data = p.quantized.data,
                                       .scales = p.quantized.scales,
                                       .packs = unsigned(PacksOf(p.x.cols)),
                                       .eps = p.eps};
  const uintptr_t bits =
      AddressBits(p.x) | AddressBits(p.residual) | AddressBits(p.residual_out) | AddressBits(p.out);
  WithAccess(bits, [&](auto access) { LaunchRows<X, Sum, access.value>(args, p.x.rows, stream); });
}

bool SameShape(const Matrix& m, const Matrix& x) {
  return m.data == nullptr || (m.rows == x.rows && m.cols == x.cols);
}

constexpr int kLayerNormColumns = 128;
constexpr int kLayerNormWarps = 4;
constexpr int kLaneElements = kLayerNormColumns / kWarpThreads;

// A warp for each row, four consecutive elements a lane.
__global__ __launch_bounds__(kLayerNormWarps* kWarpThreads) void LayerNormKernel(
    Rows<const Bf16> x, const float* weight, const float* bias, Rows<Bf16> out, int rows,
    float eps) {
  const int row = blockIdx.x * kLayerNormWarps + threadIdx.x / kWarpThreads;
  if (row >= rows) return;  // the whole warp
  const int column = threadIdx.x % kWarpThreads * kLaneElements;
  const auto x_pack = LoadPack<8, kLaneElements>(x.At(row, column));
  const auto weight_pack = LoadPack<16, kLaneElements>(weight + column);
  const auto bias_pack = LoadPack<16, kLaneElements>(bias + column);
  float v[kLaneElements], w[kLaneElements], b[kLaneElements];
  Unpack(x_pack, v);
  Unpack(weight_pack, w);
  Unpack(bias_pack, b);

  const float mean = WarpSum((v[0] + v[1]) + (v[2] + v[3])) / kLayerNormColumns;
  float squares = 0;
#pragma unroll
  for (float& e : v) {
    e -= mean;
    squares += e * e;
  }
  const float scale = 1.0f / sqrtf(WarpSum(squares) / kLayerNormColumns + eps);
#pragma unroll
  for (int i = 0; i < kLaneElements; ++i) v[i] = v[i] * scale * w[i] + b[i];
  StorePack(out.At(row, column), PackUp<Bf16, 8>(v));
}

}  // namespace

void LaunchAddRmsNorm(const AddRmsNormParams& p, cudaStream_t stream) {
  const bool quantized = p.quantized.data != nullptr;
  BALEEN_CHECK(SameShape(p.residual, p.x) && SameShape(p.residual_out, p.x));
  BALEEN_CHECK(SameShape(p.out, p.x));
  BALEEN_CHECK_MSG((p.weight != nullptr) == (p.out.data != nullptr || quantized),
                   "a weight for an output");
  if (quantized) CheckQuantized(p.quantized, p.x.rows, p.x.cols);
  if (p.x.rows == 0) return;
  BALEEN_CHECK(AddressBits(p.weight) % 16 == 0);
  const bool wide_x = p.x.dtype == DType::kF32;
  const bool wide_sum = p.residual_out.data != nullptr && p.residual_out.dtype == DType::kF32;
  if (wide_x) {
    wide_sum ? LaunchTyped<float, float>(p, stream) : LaunchTyped<float, Bf16>(p, stream);
  } else {
    wide_sum ? LaunchTyped<Bf16, float>(p, stream) : LaunchTyped<Bf16, Bf16>(p, stream);
  }
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

void LaunchLayerNorm(const LayerNormParams& p, cudaStream_t stream) {
  BALEEN_CHECK(SameShape(p.out, p.x));
  BALEEN_CHECK_MSG(p.x.cols == kLayerNormColumns, "the indexer's keys: a warp for 128 columns");
  const auto x = RowsOf<const Bf16>(p.x);
  const auto out = RowsOf<Bf16>(p.out);
  if (p.x.rows == 0) return;
  BALEEN_CHECK((AddressBits(p.x) | AddressBits(p.out)) % 8 == 0);
  BALEEN_CHECK((AddressBits(p.weight) | AddressBits(p.bias)) % 16 == 0);
  const int blocks = (p.x.rows + kLayerNormWarps - 1) / kLayerNormWarps;
  LayerNormKernel<<<blocks, kLayerNormWarps * kWarpThreads, 0, stream>>>(x, p.weight, p.bias, out,
                                                                         p.x.rows, p.eps);
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

}  // namespace baleen::kernels::cuda
