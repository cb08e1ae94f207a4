// The hand-over with real threads: every process has its transport thread, and the workers' calls
// come from threads of the test, as they do from step threads. For ThreadSanitizer above all.
#include <random>
#include <set>
#include <thread>

#include "common/log.h"
#include "common/mutex.h"
#include "gtest/gtest.h"
#include "kv_transfer/kv_receiver.h"
#include "kv_transfer/kv_sender.h"
#include "testing/loopback_transport.h"
#include "tests/kv_transfer/page_pattern.h"

namespace baleen::kv_transfer::testing {
namespace {

constexpr int kStages = 3;
constexpr int kPages = 64;
constexpr size_t kShare = 512;  // bytes of a stage's part of a page
constexpr int kAttempts = 300;

struct Agent {
  Agent(LoopbackHub& hub, const std::string& name, size_t page_bytes, size_t offset, bool decode)
      : memory(kPages * page_bytes), transport(hub.Create(name)) {
    auto made = LinkTable::Create(*transport,
                                  {.name = name,
                                   .incarnation = Incarnation{RandomId()},
                                   .pool = {.base = memory.data(),
                                            .page_stride = page_bytes,
                                            .page_bytes = page_bytes,
                                            .pages = kPages,
                                            .page_offset = offset},
                                   .peers_write_pool = decode,
                                   .probe_bytes = 4096},
                                  metrics);
    links = *std::move(made);
  }
  std::vector<std::byte> memory;
  Metrics metrics;
  std::unique_ptr<Transport> transport;
  std::unique_ptr<LinkTable> links;
};

// What became of an attempt, filled in by callbacks of four threads.
class Ledger {
 public:
  void Closed() {
    Change([this] { ++closed_; });
  }
  void Ended(uint64_t attempt) {
    Change([&, this] { ended_.insert(attempt); });
  }
  void Ready(uint64_t attempt) {
    Change([&, this] { ready_.insert(attempt); });
  }
  // Waits until `done(*this)` under the lock.
  template <typename Done>
  bool Wait(Done done) {
    MutexLock lock(mu_);
    const TimePoint deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!done(*this))
      if (!changed_.WaitUntil(mu_, deadline)) return done(*this);
    return true;
  }
  int closed_ = 0;
  std::set<uint64_t> ready_, ended_;

 private:
  template <typename F>
  void Change(F f) {
    MutexLock lock(mu_);
    f();
    changed_.NotifyAll();
  }
  Mutex mu_;
  CondVar changed_;
};

class Storm {
 public:
  Storm() : decode_(hub_, "decode", kShare * kStages, 0, true) {
    receiver_ = KvReceiver::Create(
        *decode_.links, {},
        {.ready = [this](AttemptId id, HandoffRecord) { ledger_.Ready(id.value); },
         .failed = [](AttemptId, absl::Status) {},
         .settled = [this](AttemptId id) { ledger_.Ended(id.value); }},
        decode_.metrics);
    for (int stage = 0; stage < kStages; ++stage) {
      prefill_.push_back(std::make_unique<Agent>(hub_, "prefill/" + std::to_string(stage), kShare,
                                                 kShare * size_t(stage), false));
      for (int page = 0; page < kPages; ++page)
        FillPage({prefill_.back()->memory.data() + size_t(page) * kShare, kShare},
                 page * kStages + stage);
      senders_.push_back(
          KvSender::Create(*prefill_.back()->links, {.stage = stage, .stages = kStages},
                           {.closed = [this](AttemptId, absl::Status) { ledger_.Closed(); }},
                           prefill_.back()->metrics));
    }
  }
  ~Storm() {
    receiver_.reset();
    senders_.clear();
  }

  void Prefill(int stage, uint64_t attempt, bool abort) {
    KvSender& sender = *senders_[size_t(stage)];
    sender.Begin(
        {.id = AttemptId{attempt}, .pages = 2, .decode = decode_.links->options().incarnation});
    sender.PagesReady(AttemptId{attempt}, 0, {Source(attempt, 0)});
    if (abort) sender.Abort(AttemptId{attempt}, absl::CancelledError("random"));
    sender.PagesReady(AttemptId{attempt}, 1, {Source(attempt, 1)});
    if (stage == kStages - 1) sender.Handoff(AttemptId{attempt}, {.first_token = 1});
  }

  // Takes pages 2n and 2n + 1 for the attempt; returns whether they arrived (and were right).
  void Decode(uint64_t attempt, int slot, bool cancel) {
    KvReceiver::GrantRequest request = {.attempt = AttemptId{attempt},
                                        .pages = {PageId{2 * slot}, PageId{2 * slot + 1}}};
    for (auto& stage : prefill_) request.stages.push_back({.peer = stage->links->Self()});
    receiver_->Grant(std::move(request));
    if (cancel) receiver_->Cancel(AttemptId{attempt}, absl::CancelledError("random"));
    ASSERT_TRUE(
        ledger_.Wait([&](Ledger& l) { return l.ready_.count(attempt) + l.ended_.count(attempt); }));
    bool ready = false;
    ledger_.Wait([&](Ledger& l) { return ready = l.ready_.count(attempt) > 0, true; });
    if (!ready || cancel) return;
    for (int page = 0; page < 2; ++page)
      for (int stage = 0; stage < kStages; ++stage)
        ASSERT_TRUE(IsPage({decode_.memory.data() + size_t(2 * slot + page) * kShare * kStages +
                                kShare * size_t(stage),
                            kShare},
                           Source(attempt, page).value * kStages + stage));
    receiver_->Release(AttemptId{attempt});
    ledger_.Ended(attempt);
  }

  static PageId Source(uint64_t attempt, int page) {
    return PageId{int(attempt * 7 + uint64_t(page) * 3) % kPages};
  }

  LoopbackHub hub_;
  Ledger ledger_;
  Agent decode_;
  std::vector<std::unique_ptr<Agent>> prefill_;
  std::unique_ptr<KvReceiver> receiver_;
  std::vector<std::unique_ptr<KvSender>> senders_;
};

TEST(HandOverThreads, TC2_AStormOfCancellationsEndsQuiet) {
  InitLog("storm");  // the logger of the prebuilt library begins its life before the threads do
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 rng(seed);
  std::vector<int> fate(kAttempts + 1);
  for (int& f : fate) f = int(rng() % 4);  // 0: decode cancels, 1: a stage aborts, else nobody
  Storm storm;
  std::vector<std::thread> threads;
  for (int stage = 0; stage < kStages; ++stage)
    threads.emplace_back([&, stage] {
      for (uint64_t id = 1; id <= kAttempts; ++id)
        storm.Prefill(stage, id, fate[id] == 1 && int(id) % kStages == stage);
    });
  for (int slot = 0; slot < 4; ++slot)  // four requests at a time, each with pages of its own
    threads.emplace_back([&, slot] {
      for (uint64_t id = uint64_t(slot) + 1; id <= kAttempts; id += 4)
        storm.Decode(id, slot, fate[id] == 0);
    });
  for (std::thread& thread : threads) thread.join();
  // A stage that nobody asked (its attempt was drained before it began) ends too.
  EXPECT_TRUE(storm.ledger_.Wait([](Ledger& l) { return l.closed_ == kAttempts * kStages; }));
  EXPECT_TRUE(storm.ledger_.Wait([](Ledger& l) { return l.ended_.size() == kAttempts; }));
  const KvReceiver::Counts counts = storm.receiver_->counts();
  EXPECT_EQ(counts.granted + counts.receiving + counts.ready + counts.quarantined, 0);
  EXPECT_EQ(counts.quarantined_pages, 0);
  EXPECT_GT(storm.ledger_.ready_.size(), size_t(kAttempts / 4));
}

}  // namespace
}  // namespace baleen::kv_transfer::testing
