// Ops that only move or add rows: Embed, Combine, GatherRows, Concat. A thread for each pack or
// word, counted through all rows of the output.
#include "kernels/cuda/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/packs.cuh"

namespace baleen::kernels::cuda {
namespace {

using Bf16 = __nv_bfloat16;

// What GatherRows and Concat copy, whatever the dtype.
template <int kAccess>
using Word =
    std::conditional_t<kAccess == 16, uint4, std::conditional_t<kAccess == 8, uint2, uint32_t>>;

template <typename T, int kAccess>
__global__ __launch_bounds__(kPackThreads) void EmbedKernel(Rows<const T> table, const int32_t* ids,
                                                            Rows<Bf16> out, unsigned row_packs,
                                                            unsigned packs) {
  const unsigned pack = ThreadOfGrid();
  if (pack >= packs) return;
  const unsigned row = pack / row_packs;
  const unsigned column = pack % row_packs * kPack;
  float v[kPack];
  Unpack(LoadPack<kAccess>(table.At(ids[row], column)), v);
  StorePack(out.At(row, column), PackUp<Bf16, kAccess>(v));
}

constexpr int kCombineThreads = 128;
constexpr int kExpertsInFlight = 8;

struct CombineArgs {
  Rows<const Bf16> expert_out;
  const float* weights = nullptr;
  int topk = 0;
  Rows<const Bf16> shared;
  Rows<Bf16> y;  // may be shared
  unsigned row_packs = 0;
};

// Lane j has the weight of expert row first + j. Rows of weight 0 are not read, they may never have
// been written; the bits of `present` are the same in all lanes. All loads are in flight together.
template <int kAccess>
__device__ void AddExperts(const CombineArgs& a, int64_t first, unsigned column, float weights,
                           unsigned present, float (&sum)[kPack]) {
  Pack<Bf16, kAccess> rows[kExpertsInFlight];
#pragma unroll
  for (int j = 0; j < kExpertsInFlight; ++j) {
    if (present >> j & 1) rows[j] = LoadPack<kAccess>(a.expert_out.At(first + j, column));
  }
#pragma unroll
  for (int j = 0; j < kExpertsInFlight; ++j) {
    const float weight = __shfl_sync(kAllLanes, weights, j);
    if ((present >> j & 1) == 0) continue;
    float v[kPack];
    Unpack(rows[j], v);
#pragma unroll
    for (int i = 0; i < kPack; ++i) sum[i] = fmaf(v[i], weight, sum[i]);
  }
}

// Grid: (row, part of the row). Threads beyond the row repeat its last pack: whole warps shuffle.
template <int kAccess>
__global__ __launch_bounds__(kCombineThreads) void CombineKernel(CombineArgs a) {
  const int64_t row = blockIdx.x;
  const unsigned pack = blockIdx.y * kCombineThreads + threadIdx.x;
  const unsigned column = min(pack, a.row_packs - 1) * kPack;
  const auto shared_pack = LoadPack<kAccess>(a.shared.At(row, column));
  const int lane = threadIdx.x % kWarpThreads;
  float sum[kPack] = {};
  for (int first = 0; first < a.topk; first += kExpertsInFlight) {
    const int j = first + lane;
    const float weights =
        lane < kExpertsInFlight && j < a.topk ? a.weights[row * a.topk + j] : 0.0f;
    const unsigned present = __ballot_sync(kAllLanes, weights != 0);
    AddExperts<kAccess>(a, row * a.topk + first, column, weights, present, sum);
  }
  float shared[kPack];
  Unpack(shared_pack, shared);
#pragma unroll
  for (int i = 0; i < kPack; ++i) sum[i] += shared[i];
  if (pack < a.row_packs) StorePack(a.y.At(row, column), PackUp<Bf16, kAccess>(sum));
}

template <typename W>
__global__ __launch_bounds__(kPackThreads) void GatherRowsKernel(Rows<const W> x,
                                                                 const int32_t* index, Rows<W> out,
                                                                 unsigned row_words,
                                                                 unsigned words) {
  const unsigned word = ThreadOfGrid();
  if (word >= words) return;
  const unsigned row = word / row_words;
  const unsigned column = word % row_words;
  *out.At(row, column) = *x.At(index[row], column);
}

template <typename W>
__global__ __launch_bounds__(kPackThreads) void ConcatKernel(Rows<const W> a, unsigned a_words,
                                                             Rows<const W> b, Rows<W> out,
                                                             unsigned row_words, unsigned words) {
  const unsigned word = ThreadOfGrid();
  if (word >= words) return;
  const unsigned row = word / row_words;
  const unsigned column = word % row_words;
  *out.At(row, column) = column < a_words ? *a.At(row, column) : *b.At(row, column - a_words);
}

size_t RowBytes(const Matrix& m) { return size_t(m.cols) * DTypeBytes(m.dtype); }

// The matrix in words.
template <typename W>
Rows<W> WordsOf(const Matrix& m) {
  return {static_cast<W*>(m.data), m.stride * int64_t(DTypeBytes(m.dtype)) / int64_t{sizeof(W)}};
}

template <typename T>
void LaunchEmbedFrom(const EmbedParams& p, cudaStream_t stream) {
  const auto table = RowsOf<const T>(p.table);
  const auto out = RowsOf<Bf16>(p.out);
  const int row_packs = PacksOf(p.out.cols);
  const unsigned packs = ThreadsFor(p.out.rows, row_packs);
  WithAccess(AddressBits(p.table) | AddressBits(p.out), [&](auto access) {
    EmbedKernel<T, access.value>
        <<<BlocksFor(packs), kPackThreads, 0, stream>>>(table, p.ids, out, row_packs, packs);
  });
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void LaunchEmbed(const EmbedParams& p, cudaStream_t stream) {
  BALEEN_CHECK(p.table.cols == p.out.cols);
  if (p.out.rows == 0) return;
  switch (p.table.dtype) {
    case DType::kF32:
      return LaunchEmbedFrom<float>(p, stream);
    case DType::kBf16:
      return LaunchEmbedFrom<Bf16>(p, stream);
    case DType::kF8E4M3:
      BALEEN_CHECK_MSG(false, "an embedding is bf16 or f32");
  }
}

void LaunchCombine(const CombineParams& p, cudaStream_t stream) {
  BALEEN_CHECK(p.expert_out.cols == p.y.cols && p.shared.cols == p.y.cols);
  BALEEN_CHECK(p.expert_out.rows >= int64_t{p.y.rows} * p.topk && p.shared.rows == p.y.rows);
  CombineArgs args = {.expert_out = RowsOf<const Bf16>(p.expert_out),
                      .weights = p.weights,
                      .topk = p.topk,
                      .shared = RowsOf<const Bf16>(p.shared),
                      .y = RowsOf<Bf16>(p.y)};
  if (p.y.rows == 0) return;
  args.row_packs = PacksOf(p.y.cols);
  const dim3 grid(p.y.rows, BlocksFor(args.row_packs, kCombineThreads));
  const uintptr_t bits = AddressBits(p.expert_out) | AddressBits(p.shared) | AddressBits(p.y);
  WithAccess(bits, [&](auto access) {
    CombineKernel<access.value><<<grid, kCombineThreads, 0, stream>>>(args);
  });
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

void LaunchGatherRows(const GatherRowsParams& p, cudaStream_t stream) {
  BALEEN_CHECK(p.x.dtype == p.out.dtype && p.x.cols == p.out.cols);
  if (p.out.rows == 0) return;
  const auto launch = [&](auto access) {
    using W = Word<access.value>;
    const unsigned row_words = RowBytes(p.out) / sizeof(W);
    const unsigned words = ThreadsFor(p.out.rows, row_words);
    GatherRowsKernel<W><<<BlocksFor(words), kPackThreads, 0, stream>>>(
        WordsOf<const W>(p.x), p.index, WordsOf<W>(p.out), row_words, words);
  };
  const uintptr_t bits = AddressBits(p.x) | AddressBits(p.out) | RowBytes(p.out);
  if (bits % 8 == 4) {
    launch(std::integral_constant<int, 4>());
  } else {
    WithAccess(bits, launch);
  }
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

void LaunchConcat(const ConcatParams& p, cudaStream_t stream) {
  BALEEN_CHECK(p.a.cols + p.b.cols == p.out.cols);
  BALEEN_CHECK(p.a.rows == p.out.rows && p.b.rows == p.out.rows);
  BALEEN_CHECK(p.a.dtype == p.out.dtype && p.b.dtype == p.out.dtype);
  if (p.out.rows == 0) return;
  const uintptr_t bits = AddressBits(p.a) | AddressBits(p.b) | AddressBits(p.out);
  WithAccess(bits | RowBytes(p.a) | RowBytes(p.b), [&](auto access) {
    using W = Word<access.value>;
    const unsigned a_words = RowBytes(p.a) / sizeof(W);
    const unsigned row_words = RowBytes(p.out) / sizeof(W);
    const unsigned words = ThreadsFor(p.out.rows, row_words);
    ConcatKernel<W><<<BlocksFor(words), kPackThreads, 0, stream>>>(
        WordsOf<const W>(p.a), a_words, WordsOf<const W>(p.b), WordsOf<W>(p.out), row_words, words);
  });
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

}  // namespace baleen::kernels::cuda
