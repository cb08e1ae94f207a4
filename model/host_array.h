#pragma once

#include <cstddef>
#include <span>
#include <type_traits>

#include "common/check.h"
#include "kernels/backend.h"

namespace baleen::model {

// A list of at most `capacity` values in host memory that the backend copies asynchronously. The
// memory was planned: that it is missing is a BALEEN_CHECK. What is being copied must not be
// written; that is the caller's to know (Backend::WaitFor).
template <typename T>
class HostArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  HostArray(kernels::Backend& backend, size_t capacity)
      : backend_(backend),
        data_(static_cast<T*>(backend.AllocateHost(capacity * sizeof(T)))),
        capacity_(capacity) {
    BALEEN_CHECK_MSG(data_ != nullptr, "no host memory for copies to and from the device");
  }
  ~HostArray() { backend_.FreeHost(data_); }
  HostArray(const HostArray&) = delete;
  HostArray& operator=(const HostArray&) = delete;

  // All are `value`.
  void Assign(size_t count, const T& value) {
    size_ = 0;
    Append(count, value);
  }
  void Append(size_t count, const T& value) {
    BALEEN_CHECK(size_ + count <= capacity_);
    for (size_t i = 0; i < count; ++i) data_[size_ + i] = value;
    size_ += count;
  }
  void Clear() { size_ = 0; }

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  size_t bytes() const { return size_ * sizeof(T); }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }

 private:
  kernels::Backend& backend_;
  T* const data_;
  const size_t capacity_;
  size_t size_ = 0;
};

}  // namespace baleen::model
