#include "kv_transfer/buffer.h"

#include <algorithm>
#include <bit>
#include <new>

namespace baleen::kv_transfer {
namespace {

constexpr std::align_val_t kAlignment{64};

}  // namespace

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this == &other) return *this;
  Release();
  pool_ = std::move(other.pool_);
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  capacity_ = std::exchange(other.capacity_, 0);
  return *this;
}

void Buffer::Release() {
  if (data_ != nullptr) pool_->Put(data_, capacity_);
  data_ = nullptr;
  size_ = capacity_ = 0;
  pool_.reset();
}

std::shared_ptr<BufferPool> BufferPool::Create(size_t keep_bytes) {
  return std::shared_ptr<BufferPool>(new BufferPool(keep_bytes));
}

BufferPool::~BufferPool() {
  for (auto& of_class : idle_)
    for (std::byte* data : of_class) operator delete(data, kAlignment);
}

Buffer BufferPool::Get(size_t size) {
  Buffer buffer;
  if (size == 0) return buffer;
  const size_t capacity = std::bit_ceil(std::max<size_t>(size, 64));
  {
    MutexLock lock(mu_);
    auto& of_class = idle_[std::countr_zero(capacity)];
    if (!of_class.empty()) {
      buffer.data_ = of_class.back();
      of_class.pop_back();
      idle_bytes_ -= capacity;
    }
  }
  if (buffer.data_ == nullptr)
    buffer.data_ = static_cast<std::byte*>(operator new(capacity, kAlignment));
  buffer.pool_ = shared_from_this();
  buffer.size_ = size;
  buffer.capacity_ = capacity;
  return buffer;
}

size_t BufferPool::idle_bytes() const {
  MutexLock lock(mu_);
  return idle_bytes_;
}

void BufferPool::Put(std::byte* data, size_t capacity) {
  {
    MutexLock lock(mu_);
    if (idle_bytes_ + capacity <= keep_bytes_) {
      idle_[std::countr_zero(capacity)].push_back(data);
      idle_bytes_ += capacity;
      return;
    }
  }
  operator delete(data, kAlignment);
}

}  // namespace baleen::kv_transfer
