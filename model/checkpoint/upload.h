#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace baleen::model {

// Brings bytes into a backend's memory, part by part. Where that is the host's, a part is written
// in its place. Else it is written into one of two staging buffers, which the device copies while
// the other one is filled: the caller waits only for copies out of the buffer that it needs again.
//
// Threads: one caller.
class Upload {
 public:
  static constexpr size_t kPartBytes = size_t{16} << 20;
  static constexpr size_t kBufferBytes = 2 * kPartBytes;
  static constexpr int kBuffers = 2;

  // `backend` must outlive the result. ResourceExhausted names the bytes of host memory wanted.
  static absl::StatusOr<std::unique_ptr<Upload>> Create(kernels::Backend& backend);
  ~Upload();  // waits

  // `write` is called once, with room for `bytes` (at most kPartBytes), and fills all of it; they
  // go to `to`, in the backend's memory. Room is `to` itself or 64-byte aligned.
  void Put(std::byte* to, size_t bytes, absl::FunctionRef<void(std::byte* room)> write);

  // Blocks until every part is in its place.
  void Finish() { backend_.Synchronize(); }

 private:
  explicit Upload(kernels::Backend& backend) : backend_(backend) {}

  struct Buffer {
    std::byte* data = nullptr;  // of Backend::AllocateHost
    uint64_t copied = 0;        // the backend's mark behind its copies; 0: there are none
  };
  kernels::Backend& backend_;
  std::vector<Buffer> buffers_;  // none: host memory
  size_t current_ = 0;           // of buffers_
  size_t filled_ = 0;            // bytes of it
};

}  // namespace baleen::model
