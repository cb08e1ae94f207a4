#include "kernels/cpu/cpu_backend.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace baleen::kernels::cpu {

Backend::Memory CpuBackend::memory() const {
  const auto pages = static_cast<size_t>(std::max(sysconf(_SC_PHYS_PAGES), 0L));
  const auto page_bytes = static_cast<size_t>(std::max(sysconf(_SC_PAGESIZE), 0L));
  return {.total = pages * page_bytes, .free = pages * page_bytes};
}
void* CpuBackend::Allocate(size_t bytes) {
  return std::aligned_alloc(64, (bytes == 0 ? 64 : bytes + 63) / 64 * 64);
}
void CpuBackend::Free(void* p) { std::free(p); }

std::unique_ptr<Backend::Recording> CpuBackend::Record(absl::FunctionRef<void()>) {
  BALEEN_CHECK_MSG(false, "a CPU backend records nothing");
  return nullptr;
}

void CpuBackend::CopyIn(void* dst, const void* host, size_t bytes) {
  if (bytes > 0) std::memcpy(dst, host, bytes);
}
void CpuBackend::CopyOut(void* host, const void* src, size_t bytes) {
  if (bytes > 0) std::memcpy(host, src, bytes);
}
void CpuBackend::CopyWithin(void* dst, const void* src, size_t bytes) {
  if (bytes > 0) std::memcpy(dst, src, bytes);
}

}  // namespace baleen::kernels::cpu
