#pragma once

#include <chrono>
#include <optional>
#include <vector>

#include "common/mutex.h"
#include "decode_worker/token_buffer.h"

namespace baleen::testing {

// The reader of one stream: collects what is written. `hold`: leaves writes in flight until
// Release. Any thread.
class CollectingWriter final : public decode_worker::ChunkWriter {
 public:
  using TokenChunk = decode_worker::TokenChunk;

  explicit CollectingWriter(bool hold = false, int max_tokens = 16384)
      : hold_(hold), buffer_(std::make_shared<decode_worker::TokenBuffer>(this, max_tokens)) {}
  ~CollectingWriter() override { buffer_->Detach(); }

  const std::shared_ptr<decode_worker::TokenBuffer>& buffer() const { return buffer_; }

  void Write(TokenChunk chunk) override {
    MutexLock lock(mu_);
    ++writes_;
    tokens_.insert(tokens_.end(), chunk.tokens.begin(), chunk.tokens.end());
    logprobs_.insert(logprobs_.end(), chunk.logprobs.begin(), chunk.logprobs.end());
    if (chunk.finish) finish_ = chunk.finish;
    in_flight_ = true;
    changed_.NotifyAll();
  }
  void End(const absl::Status& status) override {
    MutexLock lock(mu_);
    end_ = status;
    changed_.NotifyAll();
  }

  // Completes writes until the stream ends, or `until` tokens are there; false after 30 s.
  bool Pump(size_t until = SIZE_MAX) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (true) {
      bool done = false;
      {
        MutexLock lock(mu_);
        while (!in_flight_ && !end_ && tokens_.size() < until)
          if (!changed_.WaitUntil(mu_, deadline)) return false;
        if (!in_flight_ || hold_) return true;
        done = std::exchange(in_flight_, false);
      }
      if (done) buffer_->WriteDone(true);
    }
  }
  // Completes the write in flight.
  void Release(bool ok = true) {
    {
      MutexLock lock(mu_);
      in_flight_ = false;
    }
    buffer_->WriteDone(ok);
  }

  std::vector<int32_t> tokens() const {
    MutexLock lock(mu_);
    return tokens_;
  }
  std::vector<model::TokenLogprobs> logprobs() const {
    MutexLock lock(mu_);
    return logprobs_;
  }
  std::optional<decode_worker::FinishInfo> finish() const {
    MutexLock lock(mu_);
    return finish_;
  }
  // Not set while the stream is open.
  std::optional<absl::Status> end() const {
    MutexLock lock(mu_);
    return end_;
  }
  int writes() const {
    MutexLock lock(mu_);
    return writes_;
  }

 private:
  const bool hold_;
  mutable Mutex mu_;
  CondVar changed_;
  std::vector<int32_t> tokens_ ABSL_GUARDED_BY(mu_);
  std::vector<model::TokenLogprobs> logprobs_ ABSL_GUARDED_BY(mu_);
  std::optional<decode_worker::FinishInfo> finish_ ABSL_GUARDED_BY(mu_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);
  bool in_flight_ ABSL_GUARDED_BY(mu_) = false;
  int writes_ ABSL_GUARDED_BY(mu_) = 0;
  std::shared_ptr<decode_worker::TokenBuffer> buffer_;
};

}  // namespace baleen::testing
