// SparseAttention (3.5, absorbed) over the fp8 cache, for decode and prefill.
//
// A CTA takes one row, 64 heads (wgmma's M; fewer are padded with zeros) and every splits-th tile
// of 64 keys: a producer warpgroup gathers rows of the cache and decodes them to bf16, two consumer
// warpgroups multiply, with a running softmax (gather.cuh, attend.cuh). A key's 576 columns serve
// as K and their first 512 as V, so a key is read and decoded once.
//
// The `splits` CTAs of a row and its heads are a cluster, which joins its partial results through
// distributed shared memory (combine.cuh): no scratch, no second kernel. How many there are follows
// from the largest step, never from the rows at hand, and which keys a CTA takes from their places
// in the list; so a row's bits depend on neither its batch nor the length of the page table, and a
// list of all keys gives the bits of no list.
#include "kernels/cuda/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sparse_attention/attend.cuh"
#include "kernels/cuda/sparse_attention/combine.cuh"
#include "kernels/cuda/sparse_attention/gather.cuh"

#include <algorithm>
#include <bit>

namespace baleen::kernels::cuda {
namespace sparse_attention {
namespace {

__device__ void InitBarriers(SharedMemory& shared) {
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      ptx::MbarrierInit(&shared.full[stage], kProducerWarps);
      ptx::MbarrierInit(&shared.empty[stage], kConsumerWarps);
    }
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads, 1)
    SparseAttentionKernel(const __grid_constant__ Args a) {
  extern __shared__ __align__(1024) uint8_t shared_bytes[];
  SharedMemory& shared = *reinterpret_cast<SharedMemory*>(shared_bytes);
  const Job job = JobOf(a);
  InitBarriers(shared);
  if (threadIdx.x >= kConsumerThreads) {
    ptx::SetMaxRegistersDown<kProducerRegisters>();
    if (job.tiles > 0) GatherKeys(a, job, shared);
    ptx::ClusterArrive();
    ptx::ClusterWait();
    ptx::ClusterArriveRelaxed();
    ptx::ClusterWait();
  } else {
    ptx::SetMaxRegistersUp<kConsumerRegisters>();
    Attend(a, job, shared);
    ptx::ClusterArrive();  // the partial results are there
    ptx::ClusterWait();
    Combine(a, job, shared);
    ptx::ClusterArriveRelaxed();  // they have been read: they may go
    ptx::ClusterWait();
  }
}

constexpr int kMaxRows = 65535;

// Few rows are split finely so that they reach many SMs; many rows fill the GPU as they are, and a
// split would only cost its prologue and combination.
int SplitsFor(const StepLimits& limits) {
  if (limits.rows <= 256) return kMaxSplits;
  if (limits.rows <= 512) return 4;
  return limits.rows <= 1024 ? 2 : 1;
}

bool Aligned16(const Matrix& m) {
  return reinterpret_cast<uintptr_t>(m.data) % 16 == 0 && m.stride % 8 == 0;
}

void CheckParams(const SparseAttentionParams& p, const StepLimits& limits) {
  BALEEN_CHECK_MSG(p.cache.layout.numerics == Numerics::kFp8, "the GPU reads the fp8 cache");
  BALEEN_CHECK_MSG(p.cache.layout.kv_lora == kLora && p.cache.layout.rope == kRope,
                   "tiles are 512 + 64 columns wide");
  BALEEN_CHECK(p.cache.layout.LatentRowBytes() == kRowBytes);
  BALEEN_CHECK(reinterpret_cast<uintptr_t>(p.cache.pool) % 16 == 0 &&
               p.cache.page_bytes % 16 == 0 && p.cache.layer_offset % 16 == 0);
  BALEEN_CHECK(p.q.dtype == DType::kBf16 && p.q_rope.dtype == DType::kBf16 &&
               p.out.dtype == DType::kBf16);
  BALEEN_CHECK(Aligned16(p.q) && Aligned16(p.q_rope) && Aligned16(p.out));
  BALEEN_CHECK(p.heads >= 1 && p.heads <= 128);
  BALEEN_CHECK(p.q.cols == p.heads * kLora && p.out.cols == p.heads * kLora);
  BALEEN_CHECK(p.q.rows >= p.rows.rows && p.out.rows >= p.rows.rows);
  BALEEN_CHECK(p.q_rope.rows >= p.rows.rows &&
               p.q_rope.cols >= (p.heads - 1) * p.rope_head_stride + kRope);
  BALEEN_CHECK(p.rope_head_stride >= kRope && p.rope_head_stride % 8 == 0);
  BALEEN_CHECK_MSG(p.scale > 0, "the largest score must be that of the largest product");
  BALEEN_CHECK(p.indices == nullptr || p.topk > 0);
  BALEEN_CHECK_MSG(p.rows.rows <= kMaxRows, "rows are the grid's z");
  BALEEN_CHECK_MSG(p.rows.rows <= limits.rows, "splits are chosen for the largest step");
}

Args ArgsFor(const SparseAttentionParams& p, int splits) {
  constexpr float kLog2E = 1.44269504088896341f;
  return {.q = static_cast<const Bf16*>(p.q.data),
          .q_stride = p.q.stride,
          .q_rope = static_cast<const Bf16*>(p.q_rope.data),
          .q_rope_stride = p.q_rope.stride,
          .rope_head_stride = p.rope_head_stride,
          .heads = p.heads,
          .splits = splits,
          .scale_log2 = p.scale * kLog2E,
          .indices = p.indices,
          .topk = p.topk,
          .layer = p.cache.layer(0),
          .page_bytes = p.cache.page_bytes,
          .positions = p.rows.positions,
          .sequences = p.rows.sequences,
          .page_table = p.rows.page_table,
          .page_table_stride = p.rows.page_table_stride,
          .out = static_cast<Bf16*>(p.out.data),
          .out_stride = p.out.stride};
}

}  // namespace
}  // namespace sparse_attention

void LaunchSparseAttention(const SparseAttentionParams& p, const StepLimits& limits,
                           cudaStream_t stream) {
  using namespace sparse_attention;
  if (p.rows.rows == 0) return;
  CheckParams(p, limits);
  // A row has no more tiles than its list or the page table. Splits beyond them would be empty.
  static_assert(kTileKeys == kPageTokens);
  const int tiles = p.indices != nullptr ? (p.topk + kTileKeys - 1) / kTileKeys
                                         : std::max(p.rows.page_table_stride, 1);
  const int splits = std::min<int>(SplitsFor(limits), std::bit_ceil(static_cast<unsigned>(tiles)));
  const Args args = ArgsFor(p, splits);

  BALEEN_CUDA_CHECK(cudaFuncSetAttribute(
      SparseAttentionKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(SharedMemory)));
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(splits), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = {static_cast<unsigned>(splits),
                    static_cast<unsigned>((p.heads + kTileHeads - 1) / kTileHeads),
                    static_cast<unsigned>(p.rows.rows)};
  config.blockDim = kThreads;
  config.dynamicSmemBytes = sizeof(SharedMemory);
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  BALEEN_CUDA_CHECK(cudaLaunchKernelEx(&config, SparseAttentionKernel, args));
}

}  // namespace baleen::kernels::cuda
