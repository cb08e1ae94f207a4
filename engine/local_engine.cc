#include "engine/local_engine.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "engine/memory_plan.h"

namespace baleen::engine {

struct LocalEngine::Request {
  uint64_t id = 0;
  std::vector<int32_t> prompt;
  model::SamplingParams sampling;
  std::vector<PageId> pages;
  int computed = 0;  // prompt tokens whose rows are in the pages
  bool decoding = false;
  bool done = false;
  DecodeSequence sequence;  // while decoding
  Result result;
};

namespace {

PrefillStep::Options PrefillOptions(const LocalEngine::Options& o) {
  return {.shard = o.shard,
          .drafts = o.drafts,
          .max_rows = o.chunk_tokens,
          .max_head_rows = o.max_head_rows,
          .max_context = o.max_context,
          .vocabulary = o.vocabulary};
}

DecodeLimits Limits(const LocalEngine::Options& o) {
  return {.max_sequences = o.max_sequences,
          .drafts = o.drafts,
          .max_context = o.max_context,
          .max_head_rows = o.max_head_rows,
          .index_topk = o.index_topk,
          .vocabulary = o.vocabulary};
}

}  // namespace

size_t LocalEngine::PlannedBytes(const Options& options) {
  return PrefillStep::PlannedBytes(PrefillOptions(options)) +
         DecodeStep::PlannedBytes(Limits(options));
}

LocalEngine::LocalEngine(model::Forward& forward, Options options)
    : forward_(forward),
      options_(std::move(options)),
      pool_(options_.pages),
      cache_(pool_, options_.drafts > 0),
      prefill_(forward, PrefillOptions(options_)),
      decode_(forward, Limits(options_)) {
  BALEEN_CHECK(options_.shard.first() && options_.shard.last());
  BALEEN_CHECK(options_.chunk_tokens > 0 && options_.max_sequences > 0);
  decode_.Record();
}

LocalEngine::~LocalEngine() = default;

absl::StatusOr<uint64_t> LocalEngine::Submit(std::vector<int32_t> prompt,
                                             model::SamplingParams sampling) {
  BALEEN_RETURN_IF_ERROR(model::Validate(sampling, options_.vocabulary.limit));
  if (prompt.empty()) return absl::InvalidArgumentError("the prompt is empty");
  for (int32_t token : prompt) {
    if (token < 0 || token >= options_.vocabulary.limit) {
      return absl::InvalidArgumentError(absl::StrCat("no token has the id ", token));
    }
  }
  if (prompt.size() >= static_cast<size_t>(options_.max_context)) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", prompt.size(),
                                                   " tokens, the context ", options_.max_context));
  }
  const int pages =
      DecodePages(prompt.size(), sampling.max_new_tokens, options_.drafts, options_.max_context);
  if (pages > pool_.total()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the request needs ", pages, " pages, the pool has ", pool_.total()));
  }
  auto request = std::make_unique<Request>();
  request->id = next_id_++;
  request->prompt = std::move(prompt);
  request->sampling = std::move(sampling);
  const uint64_t id = request->id;
  waiting_.push_back(std::move(request));
  return id;
}

void LocalEngine::Cancel(uint64_t id) {
  std::erase_if(waiting_, [id](const auto& request) { return request->id == id; });
  for (const auto& request : running_) {
    if (request->id == id) Finish(*request, absl::CancelledError("cancelled"));
  }
  Sweep();
  results_.erase(id);
}

bool LocalEngine::Step(const std::function<void(uint64_t id, int32_t token)>& emitted) {
  emitted_ = &emitted;
  Admit();
  Prefill();
  Decode();
  Sweep();
  emitted_ = nullptr;
  return !waiting_.empty() || !running_.empty();
}

std::optional<LocalEngine::Result> LocalEngine::Take(uint64_t id) {
  const auto it = results_.find(id);
  if (it == results_.end()) return std::nullopt;
  Result result = std::move(it->second);
  results_.erase(it);
  return result;
}

LocalEngine::Result LocalEngine::Generate(std::vector<int32_t> prompt,
                                          model::SamplingParams sampling) {
  const auto id = Submit(std::move(prompt), std::move(sampling));
  if (!id.ok()) return {.status = id.status()};
  while (Step()) {
  }
  return *Take(*id);
}

// In order of arrival: a request that does not fit holds back those behind it, so none starves.
void LocalEngine::Admit() {
  while (!waiting_.empty() && running_.size() < size_t(options_.max_sequences)) {
    if (!Reserve(*waiting_.front()).ok()) return;
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

// All pages the request can ever need: what is cached of its prompt, and fresh ones. Prompt
// logprobs need the rows of all prompt tokens, so nothing may come from the cache.
absl::Status LocalEngine::Reserve(Request& request) {
  std::vector<PageId> cached;
  if (options_.prefix_cache && !request.sampling.prompt_logprobs) {
    cached = cache_.Acquire(request.prompt);
  }
  const int pages = DecodePages(request.prompt.size(), request.sampling.max_new_tokens,
                                options_.drafts, options_.max_context);
  auto fresh = cache_.Allocate(pages - static_cast<int>(cached.size()));
  if (!fresh.ok()) {
    pool_.DropRequest(cached);
    return fresh.status();
  }
  request.computed = static_cast<int>(cached.size()) * kPageTokens;
  request.result.cached_tokens = request.computed;
  request.pages = std::move(cached);
  request.pages.insert(request.pages.end(), fresh->begin(), fresh->end());
  return absl::OkStatus();
}

void LocalEngine::Prefill() {
  std::vector<PrefillChunk> chunks;
  std::vector<Request*> owners;
  int budget = options_.chunk_tokens;
  for (const auto& request : running_) {
    if (request->decoding || budget == 0) continue;
    chunks.push_back(NextChunk(*request, budget));
    owners.push_back(request.get());
    budget -= static_cast<int>(chunks.back().tokens.size());
  }
  if (chunks.empty()) return;
  std::vector<PrefillResult> results = prefill_.Run(chunks);
  for (size_t i = 0; i < results.size(); ++i) {
    Request& request = *owners[i];
    for (auto& entry : results[i].prompt_logprobs) {
      request.result.prompt_logprobs.push_back(std::move(entry));
    }
    if (!results[i].status.ok()) {
      Finish(request, results[i].status);
    } else if (results[i].finished) {
      StartDecode(request, std::move(results[i]));
    }
  }
}

PrefillChunk LocalEngine::NextChunk(Request& request, int budget) {
  const int left = static_cast<int>(request.prompt.size()) - request.computed;
  const int count = std::min(budget, left);
  const auto begin = request.prompt.begin() + request.computed;
  PrefillChunk chunk{.id = request.id,
                     .tokens = {begin, begin + count},
                     .first_position = request.computed,
                     .last = count == left,
                     .pages = request.pages,
                     .sampling = request.sampling};
  if (!chunk.last) chunk.next_token = *(begin + count);
  if (chunk.last && request.sampling.repetition_penalty != 1) {
    chunk.earlier_tokens.assign(request.prompt.begin(), begin);
  }
  request.computed += count;
  return chunk;
}

void LocalEngine::StartDecode(Request& request, PrefillResult result) {
  if (options_.prefix_cache) cache_.Insert(request.prompt, request.pages);
  if (result.logprobs.has_value()) request.result.logprobs.push_back(*std::move(result.logprobs));
  request.sequence =
      StartSequence(request.id, std::move(request.prompt), request.sampling, request.pages,
                    result.first_token, std::move(result.drafts), decode_.limits());
  request.decoding = true;
  Emit(request, result.first_token);
  if (request.sequence.finish != FinishReason::kNone) Finish(request, absl::OkStatus());
}

void LocalEngine::Decode() {
  std::vector<DecodeSequence*> sequences;
  std::vector<Request*> owners;
  for (const auto& request : running_) {
    if (!request->decoding || request->done) continue;
    sequences.push_back(&request->sequence);
    owners.push_back(request.get());
  }
  if (sequences.empty()) return;
  std::vector<StepOutput> outputs = decode_.Run(sequences);
  for (size_t i = 0; i < outputs.size(); ++i) {
    Request& request = *owners[i];
    if (!outputs[i].status.ok()) {
      Finish(request, outputs[i].status);
      continue;
    }
    for (auto& entry : outputs[i].logprobs) request.result.logprobs.push_back(std::move(entry));
    for (int32_t token : outputs[i].tokens) Emit(request, token);
    if (request.sequence.finish != FinishReason::kNone) Finish(request, absl::OkStatus());
  }
}

void LocalEngine::Emit(Request& request, int32_t token) {
  request.result.tokens.push_back(token);
  if (emitted_ != nullptr && *emitted_) (*emitted_)(request.id, token);
}

void LocalEngine::Finish(Request& request, absl::Status status) {
  pool_.DropRequest(request.pages);
  request.done = true;
  request.result.status = std::move(status);
  request.result.finish = request.sequence.finish;
  request.result.steps = request.sequence.steps;
  request.result.accepted_drafts = request.sequence.accepted_drafts;
  results_[request.id] = std::move(request.result);
}

void LocalEngine::Sweep() {
  std::erase_if(running_, [](const auto& request) { return request->done; });
}

}  // namespace baleen::engine
