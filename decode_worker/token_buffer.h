#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "common/mutex.h"
#include "engine/finish.h"
#include "model/sampling.h"

namespace baleen::decode_worker {

struct FinishInfo {
  engine::FinishReason reason = engine::FinishReason::kNone;
  int new_tokens = 0;
  int cached_tokens = 0;  // prompt tokens that prefill found in its cache
  int steps = 0;
  int accepted_drafts = 0;
};

// Tokens to send, in order.
struct TokenChunk {
  std::vector<int32_t> tokens;
  std::vector<model::TokenLogprobs> logprobs;  // one a token, when asked for
  // With the first token, when asked for: of prompt tokens 1, 2, ...
  std::vector<model::TokenLogprobs> prompt_logprobs;
  std::optional<FinishInfo> finish;  // last
  bool empty() const { return tokens.empty() && !finish; }
};

// Where a stream's chunks go. One write is in flight at a time.
class ChunkWriter {
 public:
  virtual ~ChunkWriter() = default;
  // Called with the buffer's lock held: must start the write and return, and never call back from
  // inside. TokenBuffer::WriteDone follows.
  virtual void Write(TokenChunk chunk) = 0;
  // No more writes; once.
  virtual void End(const absl::Status& status) = 0;
};

// Between the step thread and one stream: tokens that come while a write is in flight are merged
// into the next chunk, so a slow reader costs memory in its own stream only, and at most
// `max_tokens` of it.
//
// Threads: Append, Close from any; Detach and WriteDone from the stream's.
class TokenBuffer {
 public:
  // `writer` is not owned; it must live until Detach.
  explicit TokenBuffer(ChunkWriter* writer, int max_tokens = 16384)
      : writer_(writer), max_tokens_(max_tokens) {}

  // False: the reader is too slow, the stream was ended with ResourceExhausted. After an end
  // nothing is appended.
  bool Append(TokenChunk chunk) ABSL_LOCKS_EXCLUDED(mu_);
  // Ends the stream after what is pending; an error drops it. The first Close counts.
  void Close(absl::Status status) ABSL_LOCKS_EXCLUDED(mu_);

  void WriteDone(bool ok) ABSL_LOCKS_EXCLUDED(mu_);
  // The writer is gone; nothing is called any more.
  void Detach() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Flush() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Mutex mu_;
  ChunkWriter* writer_ ABSL_GUARDED_BY(mu_);
  const int max_tokens_;
  TokenChunk pending_ ABSL_GUARDED_BY(mu_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace baleen::decode_worker
