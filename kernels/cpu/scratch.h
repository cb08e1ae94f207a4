#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "common/check.h"

namespace baleen::kernels::cpu {

// One grow-only, 64-byte aligned block of memory: after the largest step has been seen an op
// allocates nothing. Contents are undefined after Get.
class ScratchBuffer {
 public:
  template <typename T>
  T* Get(size_t count) {
    return static_cast<T*>(Bytes(count * sizeof(T)));
  }

 private:
  struct Deleter {
    void operator()(void* p) const { std::free(p); }
  };

  void* Bytes(size_t bytes) {
    if (bytes > capacity_) {
      const size_t rounded = (bytes + bytes / 4 + 63) / 64 * 64;
      data_.reset();
      data_.reset(std::aligned_alloc(64, rounded));
      BALEEN_CHECK(data_ != nullptr);
      capacity_ = rounded;
    }
    return data_.get();
  }

  std::unique_ptr<void, Deleter> data_;
  size_t capacity_ = 0;
};

// The buffers of one thread of an op. Named by use; an op may use each for one thing at a time.
struct Scratch {
  ScratchBuffer input;     // operands converted to f32
  ScratchBuffer output;    // results before they are rounded
  ScratchBuffer middle;    // between two products
  ScratchBuffer scores;    // attention scores, index products, top-k keys
  ScratchBuffer keys;      // decoded cache rows
  ScratchBuffer pointers;  // of gathered rows
};

}  // namespace baleen::kernels::cpu
