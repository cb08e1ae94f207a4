#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/decode_step.h"
#include "engine/page_pool.h"
#include "engine/prefill_step.h"
#include "engine/prefix_cache.h"

namespace baleen::engine {

// A whole engine in one process, without a cluster: continuous batching of chunked prefill and
// decode over one page pool. It uses the same steps as the workers and is what they are compared
// with (tools/baleen_generate, tests, bench).
//
// Threads: one caller.
class LocalEngine {
 public:
  struct Options {
    model::Shard shard;      // the whole model
    int pages = 0;           // of the forward pass's pool
    int chunk_tokens = 512;  // prefill rows of a batch
    int max_sequences = 64;  // running at once
    int max_head_rows = 0;   // as the forward pass was built
    int drafts = 0;          // 0..3; > 0 needs shard.mtp
    int max_context = 0;
    int index_topk = 0;  // of the model's indexer; 0: it has none
    bool prefix_cache = true;
    model::Vocabulary vocabulary;
  };

  // What became of one request.
  struct Result {
    absl::Status status;
    std::vector<int32_t> tokens;                        // generated; a stop token is the last one
    std::vector<model::TokenLogprobs> logprobs;         // one a token, when asked for
    std::vector<model::TokenLogprobs> prompt_logprobs;  // one a prompt token but the first
    FinishReason finish = FinishReason::kNone;
    int cached_tokens = 0;  // found in the prefix cache
    int steps = 0;          // verify steps; the first token comes from prefill
    int accepted_drafts = 0;

    // Tokens a verify step; 0 without steps.
    double tokens_per_step() const {
      return steps == 0 ? 0 : static_cast<double>(tokens.size() - 1) / steps;
    }
  };

  // `forward` was built for the shard, with at least max(chunk_tokens, max_sequences * (1 +
  // drafts)) rows, and outlives this.
  LocalEngine(model::Forward& forward, Options options);
  ~LocalEngine();
  // Of the backend's memory, which the constructor takes.
  static size_t PlannedBytes(const Options& options);

  // Queues a request and returns its number. InvalidArgument: empty, ids out of range, too long for
  // the context, or sampling parameters; ResourceExhausted: can never fit the pool.
  absl::StatusOr<uint64_t> Submit(std::vector<int32_t> prompt, model::SamplingParams sampling);

  // Takes the request out wherever it is; its result is never seen.
  void Cancel(uint64_t id);

  // One round: admit, one batch of prefill chunks, one decode step. `emitted`, if set, hears every
  // token as it comes. False when nothing is left to do.
  bool Step(const std::function<void(uint64_t id, int32_t token)>& emitted = nullptr);

  // The result of a finished request, once; nullopt while it runs.
  std::optional<Result> Take(uint64_t id);

  // Submit, Step until done, Take.
  Result Generate(std::vector<int32_t> prompt, model::SamplingParams sampling);

  PagePool::Counts pages() const { return pool_.counts(); }
  void FlushCache() { cache_.Flush(); }

 private:
  struct Request;
  void Admit();
  absl::Status Reserve(Request& request);
  void Prefill();
  void Decode();
  PrefillChunk NextChunk(Request& request, int budget);
  void StartDecode(Request& request, PrefillResult result);
  void Emit(Request& request, int32_t token);
  void Finish(Request& request, absl::Status status);
  void Sweep();

  model::Forward& forward_;
  const Options options_;
  PagePool pool_;
  PrefixCache cache_;
  PrefillStep prefill_;
  DecodeStep decode_;
  uint64_t next_id_ = 1;
  std::deque<std::unique_ptr<Request>> waiting_;
  std::vector<std::unique_ptr<Request>> running_;
  absl::flat_hash_map<uint64_t, Result> results_;
  const std::function<void(uint64_t, int32_t)>* emitted_ = nullptr;
};

}  // namespace baleen::engine
