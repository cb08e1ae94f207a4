#include "decode_worker/token_buffer.h"

#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"

namespace baleen::decode_worker {
namespace {

template <typename T>
void MoveBack(std::vector<T>& to, std::vector<T>& from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

bool TokenBuffer::Append(TokenChunk chunk) {
  MutexLock lock(mu_);
  if (end_) return end_->ok();
  MoveBack(pending_.tokens, chunk.tokens);
  MoveBack(pending_.logprobs, chunk.logprobs);
  MoveBack(pending_.prompt_logprobs, chunk.prompt_logprobs);
  if (chunk.finish) pending_.finish = chunk.finish;
  if (static_cast<int>(pending_.tokens.size()) > max_tokens_ && writing_) {
    end_ = absl::ResourceExhaustedError(
        absl::StrCat("the reader of the stream is ", pending_.tokens.size(), " tokens behind"));
    pending_ = {};
    return false;
  }
  Flush();
  return true;
}

void TokenBuffer::Close(absl::Status status) {
  MutexLock lock(mu_);
  if (end_) return;
  if (!status.ok()) pending_ = {};
  end_ = std::move(status);
  Flush();
}

void TokenBuffer::WriteDone(bool ok) {
  MutexLock lock(mu_);
  writing_ = false;
  if (!ok) {
    pending_ = {};
    end_ = absl::CancelledError("the reader of the stream is gone");
  }
  Flush();
}

void TokenBuffer::Detach() {
  MutexLock lock(mu_);
  writer_ = nullptr;
  pending_ = {};
  if (!end_) end_ = absl::CancelledError("the stream is gone");
}

void TokenBuffer::Flush() {
  if (writing_ || ended_ || writer_ == nullptr) return;
  if (!pending_.empty()) {
    writing_ = true;
    writer_->Write(std::exchange(pending_, {}));
  } else if (end_) {
    ended_ = true;
    writer_->End(*end_);
  }
}

}  // namespace baleen::decode_worker
