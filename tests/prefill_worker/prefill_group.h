#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kv_transfer/kv_receiver.h"
#include "kv_transfer/transport.h"
#include "prefill_worker/stage_loop.h"
#include "proto/sampling.pb.h"
#include "testing/event_log.h"
#include "testing/fake_pool.h"
#include "worker/handoff_payload.h"

namespace baleen::testing {

// Makes the transport of one process: over a LoopbackHub, or over UCX.
using Wire = std::function<std::unique_ptr<kv_transfer::Transport>(const std::string& name)>;

inline constexpr int kPrefillPages = 96;
inline constexpr int kPrefillSequences = 64;  // of a batch
inline constexpr int kPrefillContext = 4096;

// All of one prefill stage but gRPC and the process around it, over loopback and the fake model.
class PrefillStage {
 public:
  PrefillStage(const Wire& wire, int index, int size, int drafts, int chunk)
      : index_(index),
        size_(size),
        shard_(FakeForward::Stage(drafts > 0, index, size)),
        host_(shard_, kPrefillPages),
        backend_(kernels::MakeCpuBackend(1)),
        activations_(size_t{prefill_worker::kActivationSlots + 1} * slot_bytes(chunk)),
        transport_(wire(absl::StrCat("prefill/", index))),
        step_(host_.forward, {.shard = shard_,
                              .drafts = drafts,
                              .max_rows = chunk,
                              .max_head_rows = 4,
                              .max_context = kPrefillContext,
                              .vocabulary = FakeForward::Vocabulary()}) {
    using prefill_worker::StageReport;
    const size_t page_bytes = host_.layout.PageBytes();
    auto links = kv_transfer::LinkTable::Create(
        *transport_,
        {.name = absl::StrCat("prefill/", index),
         .incarnation = {uint64_t(100 + index)},
         .pool = {.base = host_.memory.data(),
                  .page_stride = page_bytes,
                  .page_bytes = page_bytes,
                  .pages = kPrefillPages,
                  .page_offset = size_t(shard_.first_layer) * host_.layout.LayerBytes()}},
        metrics_);
    BALEEN_CHECK(links.ok());
    links_ = *std::move(links);
    if (index == 0)
      leader_ = std::make_unique<prefill_worker::Leader>(
          prefill_worker::LeaderOptions{.stages = size,
                                        .chunk = {.rows = chunk, .sequences = 8},
                                        .pages = kPrefillPages,
                                        .drafts = drafts,
                                        .max_context = kPrefillContext},
          metrics_);
    pipeline_ = std::make_unique<prefill_worker::Pipeline>(
        *links_, index,
        prefill_worker::ActivationMemory{
            .slot_bytes = slot_bytes(chunk),
            .in = activations_.data(),
            .out = activations_.data() + prefill_worker::kActivationSlots * slot_bytes(chunk)},
        prefill_worker::Pipeline::Callbacks{
            .batch = [this](prefill_worker::Pipeline::Batch b) { loop_->Enqueue(std::move(b)); },
            .report = [this](StageReport r) { leader_->Report(std::move(r)); },
            .broken = [](const absl::Status&) {}});
    const auto report = [this](StageReport r) { pipeline_->Report(std::move(r)); };
    ledger_ = std::make_unique<prefill_worker::HandOverLedger>(index, report);
    sender_ = kv_transfer::KvSender::Create(
        *links_, {.stage = index, .stages = size, .components = components()},
        {.closed = [this](AttemptId id, absl::Status s) { ledger_->Closed(id, std::move(s)); },
         .granted =
             [this](AttemptId id) {
               if (leader_) leader_->Granted(id);
             }},
        metrics_);
    stage_ = std::make_unique<prefill_worker::Stage>(
        step_, *sender_, *ledger_,
        prefill_worker::Stage::Options{
            .index = index,
            .size = size,
            .token_limit = FakeForward::kVocab,
            .pages = kPrefillPages,
            .max_rows = chunk,
            .max_sequences = kPrefillSequences,
            .to_wire = [](std::span<const PageId>) {},  // the pool is at the wire
            .report = report},
        metrics_);
    loop_ = std::make_unique<prefill_worker::StageLoop>(prefill_worker::StageLoop::Parts{
        .backend = *backend_,
        .forward = host_.forward,
        .stage = *stage_,
        .pipeline = *pipeline_,
        .leader = leader_.get(),
        .last = index == size - 1,
        .hidden_size = FakeForward::kDim,
        .broken = [this](absl::Status why) { broken_log.Add(std::string(why.message())); }});
  }
  ~PrefillStage() { loop_->Stop(); }

  static size_t slot_bytes(int chunk) {
    return size_t(chunk) * size_t(FakeForward::kDim) * sizeof(float);
  }
  uint32_t components() const {
    return kv_transfer::kComponentLatent | kv_transfer::kComponentIndex |
           (shard_.mtp ? kv_transfer::kComponentDraft : 0u);
  }
  kv_transfer::PeerAddress address() const { return links_->Self(); }
  worker::MemberInfo member() const {
    const auto self = links_->Self();
    return {.index = index_,
            .incarnation = self.incarnation,
            .transport_address = self.transport_address};
  }
  void Connect(const std::vector<worker::MemberInfo>& members) { pipeline_->Connect(members); }
  prefill_worker::Leader& leader() { return *leader_; }
  FakeForward& forward() { return host_.forward; }
  // What only a stage gone mad would make of a batch.
  void Enqueue(prefill_worker::BatchHeader header, std::span<const std::byte> activations = {}) {
    loop_->Enqueue({.header = std::move(header), .activations = activations});
  }

  EventLog broken_log;  // why the step loop ended by itself

  // Of all pages pushed: how many puts, and their bytes.
  double pieces() { return metrics_.Counter("transfer_sent_pieces_total", "").Value(); }

 private:
  const int index_, size_;
  const model::Shard shard_;
  Metrics metrics_;
  FakeHost host_;
  std::unique_ptr<kernels::Backend> backend_;
  std::vector<std::byte> activations_;
  std::unique_ptr<kv_transfer::Transport> transport_;
  std::unique_ptr<kv_transfer::LinkTable> links_;
  std::unique_ptr<prefill_worker::Leader> leader_;
  std::unique_ptr<prefill_worker::Pipeline> pipeline_;
  std::unique_ptr<prefill_worker::HandOverLedger> ledger_;
  std::unique_ptr<kv_transfer::KvSender> sender_;
  engine::PrefillStep step_;
  std::unique_ptr<prefill_worker::Stage> stage_;
  std::unique_ptr<prefill_worker::StageLoop> loop_;
};

// A decode rank that only receives: grants pages of a whole-model pool and notes what happens.
class ReceivingDecode {
 public:
  static constexpr Incarnation kIncarnation{900};

  ReceivingDecode(const Wire& wire, int drafts)
      : host_(FakeForward::Whole(drafts > 0), kPrefillPages), transport_(wire("decode/0")) {
    const size_t page_bytes = host_.layout.PageBytes();
    auto links = kv_transfer::LinkTable::Create(*transport_,
                                                {.name = "decode/0",
                                                 .incarnation = kIncarnation,
                                                 .pool = {.base = host_.memory.data(),
                                                          .page_stride = page_bytes,
                                                          .page_bytes = page_bytes,
                                                          .pages = kPrefillPages},
                                                 .peers_write_pool = true},
                                                metrics_);
    BALEEN_CHECK(links.ok());
    links_ = *std::move(links);
    receiver_ = kv_transfer::KvReceiver::Create(
        *links_, {},
        {.ready =
             [this](AttemptId id, kv_transfer::HandoffRecord record) {
               {
                 MutexLock lock(mu_);
                 records_[id.value] = std::move(record);
               }
               log.Add(absl::StrCat("ready ", id.value));
             },
         .failed =
             [this](AttemptId id, const absl::Status& why) {
               log.Add(
                   absl::StrCat("failed ", id.value, " ", absl::StatusCodeToString(why.code())));
             },
         .settled = [this](AttemptId id) { log.Add(absl::StrCat("settled ", id.value)); }},
        metrics_);
  }

  void Grant(AttemptId id, const std::vector<std::unique_ptr<PrefillStage>>& stages,
             std::vector<PageId> pages) {
    kv_transfer::KvReceiver::GrantRequest request{.attempt = id, .pages = std::move(pages)};
    for (const auto& stage : stages)
      request.stages.push_back({stage->address(), stage->components()});
    receiver_->Grant(std::move(request));
  }
  kv_transfer::KvReceiver& receiver() { return *receiver_; }
  const std::byte* page(int id) const {
    return host_.memory.data() + size_t(id) * host_.layout.PageBytes();
  }
  size_t page_bytes() const { return host_.layout.PageBytes(); }
  kv_transfer::HandoffRecord record(uint64_t id) {
    MutexLock lock(mu_);
    return records_.at(id);
  }

  EventLog log;

 private:
  Metrics metrics_;
  FakeHost host_;
  Mutex mu_;
  std::map<uint64_t, kv_transfer::HandoffRecord> records_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<kv_transfer::Transport> transport_;
  std::unique_ptr<kv_transfer::LinkTable> links_;
  std::unique_ptr<kv_transfer::KvReceiver> receiver_;
};

}  // namespace baleen::testing
