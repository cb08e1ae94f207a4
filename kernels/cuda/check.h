#pragma once

#include <cuda_runtime_api.h>

#include "common/check.h"

// After start-up a CUDA error is sticky: the process says what failed and ends, the router sees the
// worker vanish. At start-up use FromCuda (cuda_backend.cc), which returns a Status.
#define BALEEN_CUDA_CHECK(call)                                                            \
  do {                                                                                     \
    const cudaError_t baleen_cuda_error = (call);                                          \
    if (baleen_cuda_error != cudaSuccess)                                                  \
      ::baleen::kernels::cuda::DeviceFailed(#call, baleen_cuda_error, __FILE__, __LINE__); \
  } while (false)

namespace baleen::kernels::cuda {

// Ends the process with status 1 and one line on stderr: the call, its place, the error's number,
// name and text. Any thread; of several at once the first speaks for all.
[[noreturn]] void DeviceFailed(const char* call, cudaError_t error, const char* file, int line);

}  // namespace baleen::kernels::cuda
