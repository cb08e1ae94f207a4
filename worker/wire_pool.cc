#include "worker/wire_pool.h"

#include <sys/mman.h>

#include "absl/strings/str_cat.h"

namespace baleen::worker {

void WirePool::Unmap::operator()(std::byte* p) const { munmap(p, bytes); }

absl::StatusOr<std::unique_ptr<WirePool>> WirePool::Create(kernels::Backend& backend,
                                                           std::byte* pool, size_t page_bytes,
                                                           int pages, bool shared) {
  std::unique_ptr<WirePool> wire(new WirePool(backend, pool, page_bytes));
  if (backend.host_memory() || shared) return wire;
  const size_t bytes = page_bytes * static_cast<size_t>(pages);
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("page pool: no ", bytes, " bytes of host memory for pages on the wire"));
  }
  wire->mirror_ = {static_cast<std::byte*>(p), Unmap{bytes}};
  wire->base_ = wire->mirror_.get();
  return wire;
}

void WirePool::ToWire(std::span<const PageId> pages) {
  if (pages.empty()) return;
  if (mirror_ != nullptr) {
    for (const PageId page : pages) {
      const size_t at = static_cast<size_t>(page.value) * page_bytes_;
      backend_.CopyOut(base_ + at, pool_ + at, page_bytes_);
    }
  }
  backend_.Synchronize();
}

void WirePool::FromWire(std::span<const PageId> pages) {
  if (mirror_ == nullptr || pages.empty()) return;
  for (const PageId page : pages) {
    const size_t at = static_cast<size_t>(page.value) * page_bytes_;
    backend_.CopyIn(pool_ + at, base_ + at, page_bytes_);
  }
  backend_.Synchronize();  // a peer may write the mirror's pages again
}

}  // namespace baleen::worker
