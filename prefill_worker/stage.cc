#include "prefill_worker/stage.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/kv_layout.h"
#include "common/status_macros.h"
#include "worker/handoff_payload.h"
#include "worker/sampling_proto.h"

namespace baleen::prefill_worker {

Stage::Stage(engine::PrefillStep& step, kv_transfer::KvSender& sender, HandOverLedger& ledger,
             Options options, Metrics& metrics)
    : step_(step),
      sender_(sender),
      ledger_(ledger),
      options_(std::move(options)),
      batch_seconds_(metrics.Seconds("prefill_batch_seconds", "One batch on this stage.")),
      rows_(metrics.Counter("prefill_rows_total", "Rows computed by this stage.")) {}

absl::Status Stage::Check(const AttemptStart& start) const {
  const auto bad = [&](absl::string_view what) {
    return absl::DataLossError(
        absl::StrCat("attempt ", start.attempt.value, " begins with ", what));
  };
  const auto total = static_cast<int64_t>(start.prompt.size());
  if (total == 0) return bad("an empty prompt");
  for (int32_t token : start.prompt)
    if (token < 0 || token >= options_.token_limit) return bad("a token outside the vocabulary");
  if (static_cast<int64_t>(start.pages.size()) < PagesFor(total)) return bad("too few pages");
  for (int32_t page : start.pages)
    if (page < 0 || page >= options_.pages) return bad("a page outside the pool");
  if (start.cached_tokens < 0 || start.cached_tokens >= total ||
      start.cached_tokens % kPageTokens != 0)
    return bad("a cached prefix that cannot be");
  return absl::OkStatus();
}

absl::Status Stage::Check(const BatchHeader& header) const {
  struct Progress {
    int64_t computed, total;
  };
  std::map<AttemptId, Progress> all;
  for (const auto& [id, attempt] : attempts_)
    all[id] = {attempt.computed, static_cast<int64_t>(attempt.start.prompt.size())};
  for (const AttemptStart& start : header.starts) {
    if (all.contains(start.attempt))
      return absl::DataLossError(
          absl::StrCat("attempt ", start.attempt.value, " begins with an id that is here already"));
    BALEEN_RETURN_IF_ERROR(Check(start));
    all[start.attempt] = {start.cached_tokens, static_cast<int64_t>(start.prompt.size())};
  }
  int64_t rows = 0;
  for (const BatchEntry& entry : header.entries) {
    const auto it = all.find(entry.attempt);
    const bool good = it != all.end() && entry.first == it->second.computed && entry.rows > 0 &&
                      entry.rows <= it->second.total - entry.first;
    if (!good)
      return absl::DataLossError(absl::StrCat(
          "batch ", header.number, ": rows ", entry.first, " + ", entry.rows, " of attempt ",
          entry.attempt.value, it == all.end() ? ", which is not here" : ""));
    it->second.computed += entry.rows;
    rows += entry.rows;
  }
  if (std::ssize(header.entries) > options_.max_sequences)
    return absl::DataLossError(absl::StrCat("batch ", header.number, ": ", header.entries.size(),
                                            " sequences, this stage takes ",
                                            options_.max_sequences));
  if (rows > options_.max_rows)
    return absl::DataLossError(absl::StrCat("batch ", header.number, ": ", rows,
                                            " rows, this stage takes ", options_.max_rows));
  return absl::OkStatus();
}

void Stage::Execute(const BatchHeader& header) {
  for (const AttemptStart& start : header.starts) Begin(start);
  if (!header.entries.empty()) Compute(header);
  for (const AttemptAbort& abort : header.aborts) {
    sender_.Abort(abort.attempt, absl::Status(absl::StatusCode(abort.code), abort.why));
    attempts_.erase(abort.attempt);
    ledger_.ComputeOver(abort.attempt);
  }
}

void Stage::Begin(const AttemptStart& start) {
  Attempt attempt{.start = start, .computed = start.cached_tokens};
  const auto sampling = worker::ParseSampling(start.sampling, options_.token_limit);
  if (sampling.ok()) {
    attempt.sampling = *sampling;
  } else {
    options_.report({.kind = StageReport::Kind::kFailed,
                     .stage = options_.index,
                     .attempt = start.attempt,
                     .status = sampling.status()});
  }
  for (int32_t page : start.pages) attempt.pages.push_back({page});
  ledger_.Begin(start.attempt);
  sender_.Begin({.id = start.attempt,
                 .pages = static_cast<int>(PagesFor(static_cast<int64_t>(start.prompt.size()))),
                 .decode = start.decode});
  PushCached(attempt);
  attempts_.emplace(start.attempt, std::move(attempt));
}

// No more at once than a chunk computes: progress is seen, and bounded, by pieces of that size.
void Stage::PushCached(const Attempt& attempt) {
  const int cached = attempt.start.cached_tokens / kPageTokens;
  const int most = std::max(1, options_.max_rows / kPageTokens);
  for (int first = 0; first < cached; first += most) {
    const auto pages = attempt.pages.begin() + first;
    sender_.PagesReady(attempt.start.attempt, first,
                       {pages, pages + std::min(most, cached - first)});
  }
}

engine::PrefillChunk Stage::ChunkOf(const BatchEntry& entry, Attempt& attempt) const {
  const std::vector<int32_t>& prompt = attempt.start.prompt;
  const auto begin = prompt.begin() + entry.first;
  const auto end = begin + entry.rows;
  engine::PrefillChunk chunk{.id = entry.attempt.value,
                             .tokens = {begin, end},
                             .first_position = entry.first,
                             .last = end == prompt.end(),
                             .next_token = end == prompt.end() ? 0 : *end,
                             .pages = attempt.pages,
                             .sampling = attempt.sampling};
  if (chunk.last) chunk.earlier_tokens = {prompt.begin(), begin};
  return chunk;
}

void Stage::Compute(const BatchHeader& header) {
  const TimePoint start = SteadyClock().Now();
  std::vector<engine::PrefillChunk> chunks;
  for (const BatchEntry& entry : header.entries)
    chunks.push_back(ChunkOf(entry, attempts_.at(entry.attempt)));
  std::vector<engine::PrefillResult> results = step_.Run(chunks);
  batch_seconds_.Observe(SecondsSince(start));
  rows_.Increment(header.rows());

  if (last()) ReportBatch(header, results);
  for (size_t i = 0; i < header.entries.size(); ++i) {
    const BatchEntry& entry = header.entries[i];
    Attempt& attempt = attempts_.at(entry.attempt);
    attempt.computed += entry.rows;
    // Before the last pages go out: decode may release them the moment it has them.
    if (chunks[i].last) ledger_.ComputeOver(entry.attempt);
    Push(entry, attempt);
    if (last()) {
      attempt.failed |= !results[i].status.ok();
      if (!attempt.failed) HandOff(entry.attempt, attempt, results[i]);
    }
    if (chunks[i].last) attempts_.erase(entry.attempt);
  }
}

// Failures before the batch's end, so that nothing of a failed prompt is kept in the prefix cache;
// and both before the pages go out, so that the leader still knows the attempts.
void Stage::ReportBatch(const BatchHeader& header,
                        const std::vector<engine::PrefillResult>& results) {
  for (size_t i = 0; i < results.size(); ++i) {
    if (results[i].status.ok()) continue;
    options_.report({.kind = StageReport::Kind::kFailed,
                     .stage = options_.index,
                     .attempt = header.entries[i].attempt,
                     .status = results[i].status});
  }
  options_.report(
      {.kind = StageReport::Kind::kBatchDone, .stage = options_.index, .batch = header.number});
}

void Stage::Push(const BatchEntry& entry, const Attempt& attempt) {
  const auto total = static_cast<int>(attempt.start.prompt.size());
  const int end = entry.first + entry.rows;
  const int first_page = entry.first / kPageTokens;
  const int end_page = end == total ? static_cast<int>(PagesFor(total)) : end / kPageTokens;
  if (first_page == end_page) return;
  std::vector<PageId> pages = {attempt.pages.begin() + first_page,
                               attempt.pages.begin() + end_page};
  options_.to_wire(pages);
  sender_.PagesReady(entry.attempt, first_page, std::move(pages));
}

void Stage::HandOff(AttemptId id, Attempt& attempt, engine::PrefillResult& result) {
  std::move(result.prompt_logprobs.begin(), result.prompt_logprobs.end(),
            std::back_inserter(attempt.prompt_logprobs));
  if (!result.finished) return;
  kv_transfer::HandoffRecord record{
      .first_token = static_cast<uint32_t>(result.first_token),
      .position = static_cast<uint32_t>(attempt.start.prompt.size()),
      .cached_tokens = static_cast<uint32_t>(attempt.start.cached_tokens),
      .prompt_hash = worker::PromptHash(attempt.start.prompt),
      .draft_tokens = {result.drafts.begin(), result.drafts.end()},
      .logprobs = worker::Encode(worker::HandoffLogprobs{
          .first = std::move(result.logprobs), .prompt = std::move(attempt.prompt_logprobs)})};
  sender_.Handoff(id, std::move(record));
}

}  // namespace baleen::prefill_worker
