#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <set>

#include "tests/model/memory_backend.h"

namespace baleen::testing {

// The memory of a device whose copies are as late as they may be: they arrive when a mark behind
// them is waited for, or with Synchronize, and then the host's memory they came from is
// overwritten. So memory that was filled again too early, or too late for a copy, shows in the
// bytes that arrived.
class StagedBackend final : public MemoryBackend {
 public:
  // The host has `pinned` bytes for AllocateHost.
  explicit StagedBackend(kernels::WeightStorage storage, size_t pinned = size_t{1} << 40)
      : MemoryBackend(storage, size_t{1} << 40, /*host_memory=*/false), pinned_(pinned) {}

  void* AllocateHost(size_t bytes) override {
    if (bytes > pinned_) return nullptr;
    pinned_ -= bytes;
    auto* const p = static_cast<std::byte*>(MemoryBackend::AllocateHost(bytes));
    buffers_[p] = bytes;
    return p;
  }
  void FreeHost(void* p) override {
    const auto buffer = buffers_.find(static_cast<std::byte*>(p));
    BALEEN_CHECK(buffer != buffers_.end());
    for (const Copy& c : copies_) BALEEN_CHECK_MSG(c.buffer != buffer->first, "freed too early");
    buffers_.erase(buffer);
    MemoryBackend::FreeHost(p);
  }
  void CopyIn(void* dst, const void* host, size_t bytes) override {
    auto* const from = const_cast<std::byte*>(static_cast<const std::byte*>(host));
    auto buffer = buffers_.upper_bound(from);
    BALEEN_CHECK_MSG(buffer != buffers_.begin(), "a copy out of memory that is not pinned");
    --buffer;
    BALEEN_CHECK_MSG(from + bytes <= buffer->first + buffer->second,
                     "a copy out of memory that is not pinned");
    copies_.push_back({dst, from, bytes, buffer->first});
    std::set<const std::byte*> under_way;
    for (const Copy& c : copies_) under_way.insert(c.buffer);
    most_under_way = std::max(most_under_way, static_cast<int>(under_way.size()));
  }
  // The number of copies until then.
  uint64_t Mark() override { return arrived_ + copies_.size(); }
  void WaitFor(uint64_t mark) override {
    waits += mark > arrived_;
    while (mark > arrived_) Arrive();
  }
  void Synchronize() override {
    ++synchronizes;
    while (!copies_.empty()) Arrive();
  }

  int synchronizes = 0;
  int waits = 0;           // for copies under way
  int most_under_way = 0;  // buffers with copies under way, at once
  size_t buffers_alive() const { return buffers_.size(); }

 private:
  struct Copy {
    void* dst;
    std::byte* from;
    size_t bytes;
    const std::byte* buffer;
  };
  // The oldest.
  void Arrive() {
    const Copy copy = copies_.front();
    copies_.pop_front();
    ++arrived_;
    std::memcpy(copy.dst, copy.from, copy.bytes);
    std::fill_n(copy.from, copy.bytes, std::byte{0xEE});
  }

  size_t pinned_;
  std::map<std::byte*, size_t> buffers_;
  std::deque<Copy> copies_;
  uint64_t arrived_ = 0;
};

}  // namespace baleen::testing
