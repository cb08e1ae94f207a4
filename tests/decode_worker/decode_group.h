#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "decode_worker/collecting_writer.h"
#include "decode_worker/decode_loop.h"
#include "decode_worker/loopback_ranks.h"
#include "decode_worker/transport_exchange.h"
#include "engine/local_engine.h"
#include "engine/memory_plan.h"
#include "engine/prefill_step.h"
#include "kv_transfer/kv_sender.h"
#include "testing/fake_pool.h"
#include "worker/handoff_payload.h"

namespace baleen::testing {

inline constexpr int kMaxContext = 1024;

// Polls without sleeping; false after 30 s.
inline bool Eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

// A prefill worker of one stage: the real sender and step over the fake model. Any thread.
class FakePrefill {
 public:
  static constexpr int kPages = 2048;

  FakePrefill(kv_transfer::LoopbackHub& hub, int drafts)
      : shard_(FakeForward::Whole(drafts > 0)),
        drafts_(drafts),
        host_(shard_, kPages),
        step_(host_.forward, {.shard = shard_,
                              .drafts = drafts,
                              .max_rows = kMaxContext,
                              .max_head_rows = 8,
                              .max_context = kMaxContext,
                              .vocabulary = FakeForward::Vocabulary()}),
        pool_(kPages),
        transport_(hub.Create("prefill/0")) {
    auto links = kv_transfer::LinkTable::Create(*transport_,
                                                {.name = "prefill/0",
                                                 .incarnation = {900},
                                                 .pool = {.base = host_.memory.data(),
                                                          .page_stride = host_.layout.PageBytes(),
                                                          .page_bytes = host_.layout.PageBytes(),
                                                          .pages = kPages}},
                                                metrics_);
    BALEEN_CHECK(links.ok());
    links_ = *std::move(links);
    sender_ = kv_transfer::KvSender::Create(
        *links_,
        {.components = kv_transfer::kComponentLatent | kv_transfer::kComponentIndex |
                       (drafts > 0 ? kv_transfer::kComponentDraft : 0)},
        {.closed = [this](AttemptId id, const absl::Status&) { Closed(id); }}, metrics_);
  }

  kv_transfer::PeerAddress address() const { return links_->Self(); }

  // Announces the attempt, computes its prompt and hands it over.
  void Begin(AttemptId id, int prompt_tokens, Incarnation decode) {
    {
      MutexLock lock(mu_);
      open_.insert(id.value);
    }
    sender_->Begin({.id = id, .pages = int(PagesFor(prompt_tokens)), .decode = decode});
  }
  void Serve(AttemptId id, const std::vector<int32_t>& prompt,
             const model::SamplingParams& sampling) {
    MutexLock lock(mu_);
    if (!open_.contains(id.value)) return;  // aborted meanwhile
    auto pages = pool_.Allocate(engine::PrefillPages(int64_t(prompt.size()), drafts_, kMaxContext));
    BALEEN_CHECK(pages.ok());
    held_[id.value] = *pages;
    const engine::PrefillChunk chunk = {
        .id = id.value, .tokens = prompt, .last = true, .pages = *pages, .sampling = sampling};
    const engine::PrefillResult result = step_.Run(std::span(&chunk, 1)).at(0);
    pages->resize(size_t(PagesFor(int64_t(prompt.size()))));
    sender_->PagesReady(id, 0, *pages);
    kv_transfer::HandoffRecord record = {.first_token = uint32_t(result.first_token),
                                         .position = uint32_t(prompt.size()),
                                         .prompt_hash = worker::PromptHash(prompt)};
    record.draft_tokens.assign(result.drafts.begin(), result.drafts.end());
    record.logprobs = worker::Encode({.first = result.logprobs, .prompt = result.prompt_logprobs});
    sender_->Handoff(id, std::move(record));
  }
  void Abort(AttemptId id, const absl::Status& why) { sender_->Abort(id, why); }

  // Of kv_transfer's sender and links.
  std::string metrics() const { return metrics_.Serialize(); }

  int pages_in_use() {
    MutexLock lock(mu_);
    return pool_.total() - pool_.free();
  }

 private:
  void Closed(AttemptId id) {
    MutexLock lock(mu_);
    open_.erase(id.value);
    const auto held = held_.find(id.value);
    if (held == held_.end()) return;
    pool_.DropRequest(held->second);
    held_.erase(held);
  }

  const model::Shard shard_;
  const int drafts_;
  Metrics metrics_;
  FakeHost host_;
  Mutex mu_;
  engine::PrefillStep step_ ABSL_GUARDED_BY(mu_);
  engine::PagePool pool_ ABSL_GUARDED_BY(mu_);
  std::set<uint64_t> open_ ABSL_GUARDED_BY(mu_);
  std::map<uint64_t, std::vector<PageId>> held_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<kv_transfer::Transport> transport_;
  std::unique_ptr<kv_transfer::LinkTable> links_;
  std::unique_ptr<kv_transfer::KvSender> sender_;
};

// A decode group and a prefill worker in one process, over loopback: all of decode_worker but gRPC
// and the process around it, with the fake model.
class DecodeGroup {
 public:
  struct Options {
    int ranks = 1;
    int drafts = 1;
    int pages = 256;  // of each rank
    int max_running = 8;
    bool overlap = false;  // DecodeLoop
  };
  struct Request {
    AttemptId attempt;
    int rank = 0;
    std::vector<int32_t> prompt;
    model::SamplingParams sampling;
    std::unique_ptr<CollectingWriter> stream = std::make_unique<CollectingWriter>();
  };

  explicit DecodeGroup(Options options) : options_(options) {
    for (int r = 0; r < options.ranks; ++r) {
      const model::Shard shard = FakeForward::Rank(options.drafts > 0, r, options.ranks);
      const KvLayout layout = FakeForward::Layout(shard);
      parts_.push_back(std::make_unique<Part>(size_t(options.pages) * layout.PageBytes()));
      parts_.back()->shard = shard;
      parts_.back()->layout = layout;
    }
    ranks_ =
        std::make_unique<LoopbackRanks>(options.ranks, std::chrono::seconds(20), [this](int r) {
          Part& part = *parts_[size_t(r)];
          return kv_transfer::PagePoolView{.base = part.pool.data(),
                                           .page_stride = part.layout.PageBytes(),
                                           .page_bytes = part.layout.PageBytes(),
                                           .pages = options_.pages};
        });
    for (int r = 0; r < options.ranks; ++r) Build(r);
    prefill_ = std::make_unique<FakePrefill>(ranks_->hub(), options.drafts);
    for (int r = 0; r < options.ranks; ++r) threads_.emplace_back([this, r] { RunRank(r); });
  }
  ~DecodeGroup() {
    for (auto& part : parts_) part->loop->Stop();
    threads_.clear();
    prefill_.reset();
    for (auto& part : parts_) part->receiver.reset();
  }

  decode_worker::RequestTable& table(int r) { return *parts_[size_t(r)]->table; }
  decode_worker::DecodeLoop& loop(int r) { return *parts_[size_t(r)]->loop; }
  LoopbackRanks& ranks() { return *ranks_; }
  FakePrefill& prefill() { return *prefill_; }
  // Joins the ranks' threads; what each Run returned.
  std::vector<absl::Status> Join() {
    threads_.clear();
    std::vector<absl::Status> ends;
    for (auto& part : parts_) ends.push_back(part->end);
    return ends;
  }
  // Rows of every main batch of a rank; after Join.
  const std::vector<int>& main_rows(int r) { return parts_[size_t(r)]->forward->main_rows; }

  // To decode only; prefill knows of it but has not computed.
  std::unique_ptr<Request> Submit(int rank, std::vector<int32_t> prompt,
                                  model::SamplingParams sampling) {
    auto request = std::make_unique<Request>();
    request->attempt = {next_++};
    request->rank = rank;
    request->prompt = std::move(prompt);
    request->sampling = std::move(sampling);
    prefill_->Begin(request->attempt, int(request->prompt.size()), {uint64_t(100 + rank)});
    const absl::Status status = table(rank).Submit({.attempt = request->attempt,
                                                    .prompt = request->prompt,
                                                    .sampling = request->sampling,
                                                    .prefill = {prefill_->address()}},
                                                   request->stream->buffer());
    BALEEN_CHECK_MSG(status.ok(), status.ToString().c_str());
    return request;
  }
  void Serve(const Request& r) { prefill_->Serve(r.attempt, r.prompt, r.sampling); }
  std::unique_ptr<Request> Start(int rank, std::vector<int32_t> prompt,
                                 model::SamplingParams sampling) {
    auto request = Submit(rank, std::move(prompt), std::move(sampling));
    Serve(*request);
    return request;
  }
  // As the service does when the router leaves; and the router tells prefill too.
  void Cancel(const Request& r) {
    table(r.rank).Cancel(r.attempt, absl::CancelledError("bye"));
    prefill_->Abort(r.attempt, absl::CancelledError("bye"));
  }

  // "" when every count is back at its start value (within 30 s), else what is not.
  std::string Leftovers() {
    std::string left;
    Eventually([&] { return (left = LeftoversNow()).empty(); });
    return left;
  }

 private:
  std::string LeftoversNow() {
    std::string left;
    for (int r = 0; r < options_.ranks; ++r) {
      const auto c = table(r).counts();
      const auto t = parts_[size_t(r)]->receiver->counts();
      const int attempts = c.live() + c.quarantined;
      const int transfers = t.granted + t.receiving + t.ready + t.quarantined;
      if (attempts + transfers > 0 || c.pages.free != options_.pages)
        absl::StrAppend(&left, "rank ", r, ": waiting ", c.waiting, ", granted ", c.granted,
                        ", ready ", c.ready, ", running ", c.running, ", quarantined ",
                        c.quarantined, ", pages free ", c.pages.free, ", transfers ", transfers,
                        "; ");
    }
    if (const int pages = prefill_->pages_in_use(); pages > 0)
      absl::StrAppend(&left, "prefill: ", pages, " pages\n", prefill_->metrics());
    return left;
  }

  struct Part {
    explicit Part(size_t bytes) : pool(bytes, std::byte{0xA5}) {}
    model::Shard shard;
    KvLayout layout;
    std::vector<std::byte> pool;
    std::unique_ptr<decode_worker::DecodeMetrics> metrics;
    std::unique_ptr<decode_worker::RequestTable> table;
    std::unique_ptr<decode_worker::TransportExchange> exchange;
    std::unique_ptr<FakeForward> forward;
    std::unique_ptr<engine::DecodeStep> step;
    std::unique_ptr<decode_worker::DecodeLoop> loop;
    std::unique_ptr<kv_transfer::KvReceiver> receiver;
    absl::Status end;
  };

  engine::DecodeLimits Limits() const {
    return {.max_sequences = options_.max_running,
            .drafts = options_.drafts,
            .max_context = kMaxContext,
            .max_head_rows = 8,
            .vocabulary = FakeForward::Vocabulary()};
  }

  void Build(int r) {
    Part& part = *parts_[size_t(r)];
    LoopbackRanks::Rank& rank = ranks_->rank(r);
    part.metrics = std::make_unique<decode_worker::DecodeMetrics>(rank.metrics);
    part.table = std::make_unique<decode_worker::RequestTable>(
        decode_worker::RequestTableOptions{
            .pages = options_.pages,
            .max_running = options_.max_running,
            .quarantine_percent = 100,
            .limits = Limits(),
            .stage_components = kv_transfer::kComponentLatent | kv_transfer::kComponentIndex,
            .last_stage_components = options_.drafts > 0 ? kv_transfer::kComponentDraft : 0},
        decode_worker::KvLender{
            .grant = [&part](auto grant) { part.receiver->Grant(std::move(grant)); },
            .release = [&part](AttemptId a) { part.receiver->Release(a); },
            .cancel = [&part](AttemptId a, const auto& why) { part.receiver->Cancel(a, why); }},
        [&rank] { rank.mesh->Wake(); }, *part.metrics);
    part.receiver = kv_transfer::KvReceiver::Create(
        *rank.links, {},
        {.ready = [&part](AttemptId a, auto record) { part.table->Ready(a, std::move(record)); },
         .failed = [&part](AttemptId a, const auto& why) { part.table->Failed(a, why); },
         .settled = [&part](AttemptId a) { part.table->Settled(a); }},
        rank.metrics);
    auto exchange = decode_worker::TransportExchange::Create(
        *rank.mesh, {.experts = FakeForward::kExperts,
                     .dim = FakeForward::kDim,
                     .topk = FakeForward::kTopk,
                     .max_rows = options_.max_running * (1 + options_.drafts)});
    BALEEN_CHECK(exchange.ok());
    part.exchange = *std::move(exchange);
    part.forward = std::make_unique<FakeForward>(part.shard, part.pool.data(), part.exchange.get());
    part.step = std::make_unique<engine::DecodeStep>(*part.forward, Limits());
    part.loop = std::make_unique<decode_worker::DecodeLoop>(
        *rank.mesh, *part.table, *part.step, *part.metrics,
        decode_worker::DecodeLoop::Callbacks{
            .from_wire = [](std::span<const PageId>) {},  // the pool is at the wire
            .exchanged = [&rank] { return rank.mesh->status(); },
            .agreed = [&rank] { rank.rank_links->Finish(); }},
        options_.overlap);
  }
  void RunRank(int r) {
    Part& part = *parts_[size_t(r)];
    part.end = ranks_->Connect(r);
    if (part.end.ok()) part.end = part.loop->Run();
    if (part.end.ok()) Leave(r);
  }
  // As a process that ends: its links go, while other ranks may still be on their way out.
  void Leave(int r) {
    kv_transfer::LinkTable& links = *ranks_->rank(r).links;
    links.transport().Post([&links] {
      for (kv_transfer::LinkId link : links.Links()) links.Close(link, absl::OkStatus());
    });
  }

  const Options options_;
  std::vector<std::unique_ptr<Part>> parts_;
  std::unique_ptr<LoopbackRanks> ranks_;
  std::unique_ptr<FakePrefill> prefill_;
  uint64_t next_ = 1;
  std::vector<std::jthread> threads_;
};

// What one request gives alone, in one process, without speculation.
inline engine::LocalEngine::Result Solo(const std::vector<int32_t>& prompt,
                                        const model::SamplingParams& sampling) {
  const model::Shard shard = FakeForward::Whole(false);
  FakeHost host(shard, 64);
  engine::LocalEngine engine(host.forward, {.shard = shard,
                                            .pages = 64,
                                            .chunk_tokens = kMaxContext,
                                            .max_sequences = 1,
                                            .max_head_rows = 8,
                                            .max_context = kMaxContext,
                                            .vocabulary = FakeForward::Vocabulary()});
  return engine.Generate(prompt, sampling);
}

}  // namespace baleen::testing
