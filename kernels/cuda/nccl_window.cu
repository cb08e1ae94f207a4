// What an expert exchange over NCCL does on the device itself.
#include "kernels/cuda/check.h"
#include "kernels/cuda/nccl_window.h"

namespace baleen::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__device__ void Mark(const WindowMarks& marks) {
  const uint32_t count = *marks.count + 1;
  *marks.count = count;
  *marks.seen = count;
}

__global__ void MarkKernel(const WindowMarks marks) { Mark(marks); }

// CTA i: pair i.
__global__ __launch_bounds__(kThreads) void ClearOthersKernel(
    const __grid_constant__ ClearOthersParams p) {
  if (blockIdx.x == 0 && threadIdx.x == 0) Mark(p.marks);
  const int32_t expert = p.ids[blockIdx.x];
  if (expert >= 0 && expert / p.experts_per_rank == p.rank) return;
  auto* const out = reinterpret_cast<uint4*>(p.out + size_t(blockIdx.x) * p.out_bytes);
  for (int i = threadIdx.x; i < p.out_bytes / int(sizeof(uint4)); i += kThreads) out[i] = uint4{};
}

}  // namespace

void LaunchMark(const WindowMarks& marks, cudaStream_t stream) {
  MarkKernel<<<1, 1, 0, stream>>>(marks);
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

void LaunchClearOthers(const ClearOthersParams& p, cudaStream_t stream) {
  BALEEN_CHECK(p.pairs > 0 && p.out_bytes % sizeof(uint4) == 0);
  ClearOthersKernel<<<unsigned(p.pairs), kThreads, 0, stream>>>(p);
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

}  // namespace baleen::kernels::cuda
