#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/metrics.h"
#include "gtest/gtest.h"
#include "kv_transfer/kv_receiver.h"
#include "kv_transfer/kv_sender.h"
#include "kv_transfer/link_table.h"
#include "testing/fake_clock.h"
#include "testing/loopback_transport.h"

namespace baleen::kv_transfer::testing {

inline constexpr size_t kLayerBytes = 256;

// One process: its wire, links, pages.
struct Process {
  Process(LoopbackHub& hub, const std::string& name, int layers, int first_layer, int pages,
          bool decode, Transport::Fence fence)
      : name(name), memory(size_t(pages) * kLayerBytes * size_t(layers)) {
    transport = hub.Create(name, fence);
    LinkOptions options = {.name = name,
                           .incarnation = Incarnation{RandomId()},
                           .fingerprint = {{"model", "tiny"}, {"page_tokens", "64"}},
                           .pool = {.base = memory.data(),
                                    .page_stride = kLayerBytes * size_t(layers),
                                    .page_bytes = kLayerBytes * size_t(layers),
                                    .pages = pages,
                                    .page_offset = kLayerBytes * size_t(first_layer)},
                           .peers_write_pool = decode,
                           .probe_bytes = 4096};
    auto table = LinkTable::Create(*transport, options, metrics);
    EXPECT_TRUE(table.ok()) << table.status();
    links = *std::move(table);
  }
  std::byte* Page(int page) { return links->options().pool.Page(PageId{page}); }
  size_t page_bytes() const { return links->options().pool.page_bytes; }

  std::string name;
  std::vector<std::byte> memory;
  Metrics metrics;
  std::unique_ptr<Transport> transport;
  std::unique_ptr<LinkTable> links;
};

// A prefill group of `stages` processes and one decode rank over a manual LoopbackHub: the test's
// thread runs everything, and time is fake.
class HandOver : public ::testing::Test {
 protected:
  static constexpr int kLayers = 6;
  static constexpr int kPages = 32;

  void Start(int stages, Transport::Fence fence = Transport::Fence::kOwnClose,
             KvSenderOptions sender_options = {}) {
    fence_ = fence;
    decode_ = std::make_unique<Process>(hub_, "decode-0/0", kLayers, 0, kPages, true, fence);
    receiver_ = KvReceiver::Create(
        *decode_->links, {},
        {.ready = [this](AttemptId id, HandoffRecord r) { ready_[id.value] = std::move(r); },
         .failed = [this](AttemptId id, absl::Status s) { failed_[id.value] = std::move(s); },
         .settled = [this](AttemptId id) { ++settled_[id.value]; }},
        decode_->metrics);
    closed_.resize(size_t(stages));
    for (int stage = 0; stage < stages; ++stage) AddStage(stage, stages, sender_options);
  }

  void AddStage(int stage, int stages, KvSenderOptions options) {
    const int first = kLayers * stage / stages, end = kLayers * (stage + 1) / stages;
    prefill_.push_back(std::make_unique<Process>(hub_, "prefill-0/" + std::to_string(stage),
                                                 end - first, first, kPages, false, fence_));
    Process& process = *prefill_.back();
    for (size_t i = 0; i < process.memory.size(); ++i)
      process.memory[i] = std::byte(i * 31 + i / 251 + size_t(stage) * 17);
    options.stage = stage;
    options.stages = stages;
    senders_.push_back(KvSender::Create(
        *process.links, options,
        {.closed = [this, stage](AttemptId id,
                                 absl::Status s) { closed_[size_t(stage)][id.value] = s; },
         .granted = [this](AttemptId id) { ++granted_[id.value]; }},
        process.metrics));
  }

  void TearDown() override {
    receiver_.reset();
    senders_.clear();
  }

  // Decode's page d must equal prefill's page p over all stages.
  void ExpectPage(int d, int p) {
    for (auto& process : prefill_) {
      const auto& pool = process->links->options().pool;
      EXPECT_EQ(std::memcmp(decode_->Page(d) + pool.page_offset, process->Page(p), pool.page_bytes),
                0)
          << "page " << d << " of " << process->name;
    }
  }

  KvReceiver::GrantRequest Request(uint64_t attempt, std::vector<int> pages) {
    KvReceiver::GrantRequest request = {.attempt = AttemptId{attempt}};
    for (auto& process : prefill_) request.stages.push_back({.peer = process->links->Self()});
    for (int page : pages) request.pages.push_back(PageId{page});
    return request;
  }
  void BeginAll(uint64_t attempt, int pages) {
    for (auto& sender : senders_)
      sender->Begin({.id = AttemptId{attempt},
                     .pages = pages,
                     .decode = decode_->links->options().incarnation});
  }
  void PagesReadyAll(uint64_t attempt, int first, std::vector<int> pages) {
    std::vector<PageId> ids;
    for (int page : pages) ids.push_back(PageId{page});
    for (auto& sender : senders_) sender->PagesReady(AttemptId{attempt}, first, ids);
  }
  void HandoffLast(uint64_t attempt, uint32_t token = 42) {
    senders_.back()->Handoff(AttemptId{attempt}, {.first_token = token, .position = 128});
  }
  // Lets fake time pass in steps small enough that nobody seems silent.
  void Pass(Duration duration) {
    for (Duration step = std::chrono::milliseconds(20); duration > Duration::zero();
         duration -= step) {
      clock_.Advance(step);
      hub_.Run();
    }
  }
  double Counter(Process& process, const std::string& name, const Metrics::Labels& labels = {}) {
    return process.metrics.Counter(name, "", labels).Value();
  }
  double Dropped(Process& process, const std::string& cause) {
    return Counter(process, "transfer_dropped_messages_total", {{"cause", cause}});
  }

  baleen::testing::FakeClock clock_;
  LoopbackHub hub_{LoopbackHub::Mode::kManual, clock_};
  Transport::Fence fence_ = Transport::Fence::kOwnClose;
  std::unique_ptr<Process> decode_;
  std::vector<std::unique_ptr<Process>> prefill_;
  std::unique_ptr<KvReceiver> receiver_;
  std::vector<std::unique_ptr<KvSender>> senders_;
  std::map<uint64_t, HandoffRecord> ready_;
  std::map<uint64_t, absl::Status> failed_;
  std::map<uint64_t, int> settled_;
  std::map<uint64_t, int> granted_;                       // over all stages
  std::vector<std::map<uint64_t, absl::Status>> closed_;  // by stage
};

}  // namespace baleen::kv_transfer::testing
