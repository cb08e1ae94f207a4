#pragma once

#include <cuda_runtime_api.h>

#include "common/check.h"

// After start-up a CUDA error is sticky: the process says what failed and ends, the router sees the
// worker vanish. At start-up use FromCuda (cuda_backend.cc), which returns a Status.
#define BALEEN_CUDA_CHECK(call)                                                               \
  do {                                                                                        \
    const cudaError_t baleen_cuda_error = (call);                                             \
    if (baleen_cuda_error != cudaSuccess)                                                     \
      ::baleen::internal::CheckFailed(#call, cudaGetErrorString(baleen_cuda_error), __FILE__, \
                                      __LINE__);                                              \
  } while (false)
