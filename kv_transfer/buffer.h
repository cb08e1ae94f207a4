#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"

namespace baleen::kv_transfer {

class BufferPool;

// Host memory that received a message. Owned by whoever holds it; on destruction it goes back to
// its pool, so that large messages of a steady flow do not fault their pages in again. Any thread.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer() { Release(); }

  // 64-byte aligned; nullptr when empty.
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  std::span<std::byte> span() const { return {data_, size_}; }
  operator std::span<const std::byte>() const { return {data_, size_}; }

 private:
  friend class BufferPool;
  void Release();

  std::shared_ptr<BufferPool> pool_;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

// Recycles buffers by power-of-two capacity, up to `keep_bytes` of idle ones. Any thread.
class BufferPool : public std::enable_shared_from_this<BufferPool> {
 public:
  static std::shared_ptr<BufferPool> Create(size_t keep_bytes);
  ~BufferPool();

  // Uninitialised memory of `size` bytes.
  Buffer Get(size_t size) ABSL_LOCKS_EXCLUDED(mu_);
  size_t idle_bytes() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  friend class Buffer;
  static constexpr int kClasses = 40;  // 2^0 .. 2^39 bytes

  explicit BufferPool(size_t keep_bytes) : keep_bytes_(keep_bytes), idle_(kClasses) {}
  void Put(std::byte* data, size_t capacity) ABSL_LOCKS_EXCLUDED(mu_);

  const size_t keep_bytes_;
  mutable Mutex mu_;
  size_t idle_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<std::vector<std::byte*>> idle_ ABSL_GUARDED_BY(mu_);
};

}  // namespace baleen::kv_transfer
