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
    auto* const data = static_cast<std::byte*>(backend.AllocateHost(kBufferBytes));
    if (data == nullptr) {
      return absl::ResourceExhaustedError(absl::StrCat("loading wants ", kBuffers * kBufferBytes,
                                                       " bytes of pinned memory of the host"));
    }
    upload->buffers_.push_back({.data = data});
  }
  return upload;
}

Upload::~Upload() {
  if (!buffers_.empty()) backend_.WaitFor(backend_.Mark());
  for (const Buffer& buffer : buffers_) backend_.FreeHost(buffer.data);
}

void Upload::Put(std::byte* to, size_t bytes, absl::FunctionRef<void(std::byte* room)> write) {
  BALEEN_CHECK(bytes <= kPartBytes);
  if (buffers_.empty()) return write(to);
  filled_ = (filled_ + kAlignment - 1) / kAlignment * kAlignment;
  if (filled_ + bytes > kBufferBytes) {
    buffers_[current_].copied = backend_.Mark();
    current_ = (current_ + 1) % buffers_.size();
    filled_ = 0;
    if (buffers_[current_].copied > 0) backend_.WaitFor(buffers_[current_].copied);
  }
  std::byte* const room = buffers_[current_].data + filled_;
  write(room);
  backend_.CopyIn(to, room, bytes);
  filled_ += bytes;
}

}  // namespace baleen::model
