#include "kernels/cpu/cpu_backend.h"

#include <cstdlib>
#include <cstring>

namespace baleen::kernels::cpu {

void* CpuBackend::Allocate(size_t bytes) {
  return std::aligned_alloc(64, (bytes == 0 ? 64 : bytes + 63) / 64 * 64);
}
void CpuBackend::Free(void* p) { std::free(p); }
void CpuBackend::CopyIn(void* dst, const void* host, size_t bytes) {
  if (bytes > 0) std::memcpy(dst, host, bytes);
}
void CpuBackend::CopyOut(void* host, const void* src, size_t bytes) {
  if (bytes > 0) std::memcpy(host, src, bytes);
}

}  // namespace baleen::kernels::cpu
