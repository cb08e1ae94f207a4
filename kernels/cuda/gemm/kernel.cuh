#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>

#include "kernels/cuda/check.h"
#include "kernels/cuda/gemm/consumer.cuh"
#include "kernels/cuda/gemm/producer.cuh"

// The kernel of the engine, and its launch.
namespace baleen::kernels::cuda::gemm {

template <typename C, typename Schedule>
__global__ __launch_bounds__(C::kThreads,
                             C::kCtas) void GemmKernel(const __grid_constant__ Problem p,
                                                       const __grid_constant__ Schedule schedule) {
  extern __shared__ __align__(1024) uint8_t shared_bytes[];
  auto& shared = *reinterpret_cast<Shared<C, typename Schedule::Shared>*>(shared_bytes);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < C::kStages; ++stage) {
      ptx::MbarrierInit(&shared.full[stage], kGroupThreads);
      ptx::MbarrierInit(&shared.empty[stage], C::kConsumerWarps);
    }
  }
  schedule.Prepare(shared.schedule);
  __syncthreads();
  if (threadIdx.x < kGroupThreads) {
    ptx::SetMaxRegistersDown<C::kProducerRegisters>();
    Produce<C>(p, schedule, shared);
  } else {
    ptx::SetMaxRegistersUp<C::kConsumerRegisters>();
    Consume<C>(p, schedule, shared);
  }
}

inline int MultiprocessorCount() {
  int device = 0;
  int count = 0;
  BALEEN_CUDA_CHECK(cudaGetDevice(&device));
  BALEEN_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// `items`: how many there are at most.
template <typename C, typename Schedule>
void LaunchGemm(const Problem& p, const Schedule& schedule, int64_t items, cudaStream_t stream) {
  constexpr size_t kBytes = sizeof(Shared<C, typename Schedule::Shared>);
  static_assert(kBytes <= C::kSharedBytes);
  const auto kernel = GemmKernel<C, Schedule>;
  const int64_t ctas = std::min<int64_t>(items, MultiprocessorCount() * C::kCtas);
  BALEEN_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  BALEEN_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                         cudaSharedmemCarveoutMaxShared));
  kernel<<<static_cast<unsigned>(ctas), C::kThreads, kBytes, stream>>>(p, schedule);
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

}  // namespace baleen::kernels::cuda::gemm
