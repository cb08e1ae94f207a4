#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/ids.h"
#include "kernels/backend.h"

namespace baleen::worker {

// The page pool as the transport sees it: the pool itself on a CPU, and on a GPU whose memory the
// transport reaches. Else a GPU's pool has a mirror in host memory with the same layout, page for
// page: prefill copies a page out before it is sent, decode copies a page in before the first step
// that reads it. Slabs of the mirror are pinned when a page of theirs is first copied; those that
// are never used cost no memory.
//
// Borrows backend and pool. Threads: ToWire and FromWire on the step thread; the transport's thread
// reads and writes base() under the rules that hold for the pool's pages.
class WirePool {
 public:
  // `shared`: the transport reaches the pool. ResourceExhausted names the bytes of host memory that
  // are missing.
  static absl::StatusOr<std::unique_ptr<WirePool>> Create(kernels::Backend& backend,
                                                          std::byte* pool, size_t page_bytes,
                                                          int pages, bool shared);
  ~WirePool();

  std::byte* base() const { return base_; }  // [pages][page_bytes]

  bool mirrored() const { return mirror_ != nullptr; }

  // The pages are complete; returns when they may be sent.
  void ToWire(std::span<const PageId> pages);
  // The pages have arrived; the next operations of the backend see them.
  void FromWire(std::span<const PageId> pages);

 private:
  struct Unmap {
    size_t bytes;
    void operator()(std::byte* p) const;
  };
  WirePool(kernels::Backend& backend, std::byte* pool, size_t page_bytes)
      : backend_(backend), pool_(pool), page_bytes_(page_bytes), base_(pool) {}

  size_t Pinned(PageId page);  // where the page lies, in a slab that is pinned if it can be

  enum class Slab : uint8_t { kUnused, kPinned, kPageable };
  kernels::Backend& backend_;
  std::byte* const pool_;
  const size_t page_bytes_;
  std::unique_ptr<std::byte, Unmap> mirror_;  // nullptr: the transport uses the pool
  std::byte* base_;
  size_t slab_bytes_ = 0;  // whole pages of the pool and of the system
  std::vector<Slab> slabs_;
};

}  // namespace baleen::worker
