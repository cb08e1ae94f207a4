#include "kernels/cuda/check.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace baleen::kernels::cuda {

void DeviceFailed(const char* call, cudaError_t error, const char* file, int line) {
  static std::atomic_flag said = ATOMIC_FLAG_INIT;
  while (said.test_and_set()) pause();  // another thread has seen it and ends the process
  std::fprintf(stderr, "%s:%d: CUDA error %d (%s) of %s: %s; the process ends\n", file, line,
               static_cast<int>(error), cudaGetErrorName(error), call, cudaGetErrorString(error));
  // Without destructors: they would wait for a device that answers no more.
  std::_Exit(1);
}

}  // namespace baleen::kernels::cuda
