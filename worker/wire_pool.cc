#include "worker/wire_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "spdlog/spdlog.h"

namespace baleen::worker {
namespace {

constexpr size_t kSystemPage = 4096;
constexpr size_t kLeastSlab = size_t{32} << 20;  // pinning takes milliseconds; a step waits for it

// At least kLeastSlab, of whole pages of both kinds: no copy crosses the border of two slabs, and
// no page of the system belongs to two.
size_t SlabBytes(size_t page_bytes) {
  const size_t common = std::lcm(page_bytes, kSystemPage);
  return (kLeastSlab + common - 1) / common * common;
}

}  // namespace

WirePool::~WirePool() {
  for (size_t i = 0; i < slabs_.size(); ++i)
    if (slabs_[i] == Slab::kPinned) backend_.UnpinHost(base_ + i * slab_bytes_);
}

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
  wire->slab_bytes_ = SlabBytes(page_bytes);
  wire->slabs_.resize((bytes + wire->slab_bytes_ - 1) / wire->slab_bytes_);
  return wire;
}

size_t WirePool::Pinned(PageId page) {
  const size_t at = static_cast<size_t>(page.value) * page_bytes_;
  const size_t index = at / slab_bytes_;
  if (slabs_[index] != Slab::kUnused) return at;
  const size_t begin = index * slab_bytes_;
  const size_t bytes = std::min(slab_bytes_, mirror_.get_deleter().bytes - begin);
  slabs_[index] = backend_.PinHost(base_ + begin, bytes) ? Slab::kPinned : Slab::kPageable;
  if (slabs_[index] == Slab::kPageable)
    spdlog::warn("pages on the wire: {} bytes of host memory cannot be pinned", bytes);
  return at;
}

void WirePool::ToWire(std::span<const PageId> pages) {
  if (pages.empty()) return;
  if (mirror_ != nullptr) {
    for (const PageId page : pages) {
      const size_t at = Pinned(page);
      backend_.CopyOut(base_ + at, pool_ + at, page_bytes_);
    }
  }
  backend_.Synchronize();
}

void WirePool::FromWire(std::span<const PageId> pages) {
  if (mirror_ == nullptr || pages.empty()) return;
  for (const PageId page : pages) {
    const size_t at = Pinned(page);
    backend_.CopyIn(pool_ + at, base_ + at, page_bytes_);
  }
  backend_.Synchronize();  // a peer may write the mirror's pages again
}

}  // namespace baleen::worker
