#include "model/checkpoint/upload.h"

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace baleen::model {
namespace {

constexpr size_t kAlignment = 64;  // of a part in a buffer

}  // namespace

absl::StatusOr<std::unique_ptr<Upload>> Upload::Create(kernels::Backend& backend) {
  std::unique_ptr<Upload> upload(new Upload(backend));
  if (backend.host_memory()) return upload;
  for (int i = 0; i < kBuffers; ++i) {
    upload->buffers_.push_back(backend.MakeStagingBuffer(kBufferBytes));
    if (upload->buffers_.back() == nullptr) {
      return absl::ResourceExhaustedError(absl::StrCat("loading wants ", kBuffers * kBufferBytes,
                                                       " bytes of pinned memory of the host"));
    }
  }
  return upload;
}

void Upload::Put(std::byte* to, size_t bytes, absl::FunctionRef<void(std::byte* room)> write) {
  BALEEN_CHECK(bytes <= kPartBytes);
  if (buffers_.empty()) return write(to);
  filled_ = (filled_ + kAlignment - 1) / kAlignment * kAlignment;
  if (filled_ + bytes > kBufferBytes) {
    current_ = (current_ + 1) % buffers_.size();
    filled_ = 0;
    buffers_[current_]->Wait();
  }
  kernels::Backend::StagingBuffer& buffer = *buffers_[current_];
  write(buffer.data() + filled_);
  buffer.CopyTo(to, filled_, bytes);
  filled_ += bytes;
}

}  // namespace baleen::model
