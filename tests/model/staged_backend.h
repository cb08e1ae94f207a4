#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "tests/model/memory_backend.h"

namespace baleen::testing {

// The memory of a device whose copies are as late as they may be: a staging buffer's arrive when it
// is waited for, or with Synchronize, and then its memory is overwritten. So one that was filled
// again too early, or too late for a copy, shows in the bytes that arrived.
class StagedBackend final : public MemoryBackend {
 public:
  // The host has `pinned` bytes for staging buffers.
  explicit StagedBackend(kernels::WeightStorage storage, size_t pinned = size_t{1} << 40)
      : MemoryBackend(storage, size_t{1} << 40, /*host_memory=*/false), pinned_(pinned) {}

  void CopyIn(void*, const void*, size_t) override {
    BALEEN_CHECK_MSG(false, "a copy out of memory that is not pinned");
  }
  void Synchronize() override {
    ++synchronizes;
    for (Buffer* buffer : buffers_) buffer->Arrive();
  }
  std::unique_ptr<StagingBuffer> MakeStagingBuffer(size_t bytes) override {
    if (bytes > pinned_) return nullptr;
    pinned_ -= bytes;
    return std::make_unique<Buffer>(*this, bytes);
  }

  int synchronizes = 0;
  int waits = 0;           // for a buffer with copies under way
  int most_under_way = 0;  // buffers with copies under way, at once
  size_t buffers_alive() const { return buffers_.size(); }

 private:
  class Buffer final : public StagingBuffer {
   public:
    Buffer(StagedBackend& backend, size_t bytes) : backend_(backend), memory_(bytes) {
      backend_.buffers_.push_back(this);
    }
    ~Buffer() override {
      Wait();
      std::erase(backend_.buffers_, this);
    }
    std::byte* data() override { return memory_.data(); }
    void CopyTo(void* dst, size_t from, size_t bytes) override {
      BALEEN_CHECK(from + bytes <= memory_.size());
      copies_.push_back({dst, from, bytes});
      const auto under_way = std::count_if(backend_.buffers_.begin(), backend_.buffers_.end(),
                                           [](const Buffer* b) { return !b->copies_.empty(); });
      backend_.most_under_way = std::max(backend_.most_under_way, static_cast<int>(under_way));
    }
    void Wait() override {
      backend_.waits += !copies_.empty();
      Arrive();
    }
    void Arrive() {
      if (copies_.empty()) return;
      for (const Copy& c : std::exchange(copies_, {}))
        std::memcpy(c.dst, memory_.data() + c.from, c.bytes);
      std::fill(memory_.begin(), memory_.end(), std::byte{0xEE});
    }

   private:
    struct Copy {
      void* dst;
      size_t from;
      size_t bytes;
    };
    StagedBackend& backend_;
    std::vector<std::byte> memory_;
    std::vector<Copy> copies_;
  };

  size_t pinned_;
  std::vector<Buffer*> buffers_;
};

}  // namespace baleen::testing
