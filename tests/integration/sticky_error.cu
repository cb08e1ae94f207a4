// A real device error in a real process, without a hook in the product: a library for LD_PRELOAD
// that waits for the file named by STICKY_ERROR_WHEN and then writes to an address that is not
// there. Its kernel runs in the device's primary context, the one that the process itself uses, so
// every later CUDA call of the process fails with "an illegal memory access was encountered".
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

namespace {

__global__ void WriteNowhere(int* nowhere) { *nowhere = 1; }

void* WaitAndBreak(void* when) {
  while (access(static_cast<const char*>(when), F_OK) != 0) usleep(10'000);
  WriteNowhere<<<1, 1>>>(reinterpret_cast<int*>(uintptr_t{1} << 46));
  cudaDeviceSynchronize();
  return nullptr;
}

// The thread blocks all signals: the process, which begins later, reads them from a descriptor.
__attribute__((constructor)) void Begin() {
  char* when = std::getenv("STICKY_ERROR_WHEN");
  if (when == nullptr) return;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  if (pthread_create(&thread, nullptr, WaitAndBreak, when) == 0) pthread_detach(thread);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace
