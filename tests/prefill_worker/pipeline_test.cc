#include "prefill_worker/pipeline.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <future>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/wire.h"
#include "testing/event_log.h"
#include "testing/loopback_transport.h"

namespace baleen::prefill_worker {
namespace {

using baleen::testing::EventLog;
constexpr size_t kSlotBytes = 8 * sizeof(float);

// One stage's end of the wires.
struct End {
  End(kv_transfer::LoopbackHub& hub, int index)
      : transport(hub.Create(absl::StrCat("stage ", index))) {
    links = *kv_transfer::LinkTable::Create(
        *transport, {.name = absl::StrCat("stage ", index), .incarnation = {uint64_t(10 + index)}},
        metrics);
    pipeline = std::make_unique<Pipeline>(
        *links, index,
        ActivationMemory{
            .slot_bytes = kSlotBytes, .in = memory, .out = memory + kActivationSlots * kSlotBytes},
        Pipeline::Callbacks{.batch =
                                [this](Pipeline::Batch batch) {
                                  float first = 0;
                                  if (!batch.activations.empty())
                                    std::memcpy(&first, batch.activations.data(), sizeof(first));
                                  log.Add(absl::StrCat("batch ", batch.header.number, " bytes ",
                                                       batch.activations.size(), " first ", first));
                                  if (keep_slots) return;
                                  pipeline->FreeSlot(batch.slot);
                                },
                            .report =
                                [this](StageReport r) {
                                  log.Add(absl::StrCat("report ", r.attempt.value, " ",
                                                       r.status.message()));
                                },
                            .broken =
                                [this](const absl::Status& why) {
                                  log.Add(std::string(why.message().substr(0, 15)));
                                }});
  }
  worker::MemberInfo member(int index) const {
    const auto self = links->Self();
    return {.index = index,
            .incarnation = self.incarnation,
            .transport_address = self.transport_address};
  }

  EventLog log;
  std::atomic<bool> keep_slots = false;
  std::byte memory[(kActivationSlots + 1) * kSlotBytes] = {};
  Metrics metrics;
  std::unique_ptr<kv_transfer::Transport> transport;
  std::unique_ptr<kv_transfer::LinkTable> links;
  std::unique_ptr<Pipeline> pipeline;
};

class PipelineTest : public ::testing::Test {
 protected:
  PipelineTest() {
    members_ = {first_.member(0), second_.member(1)};
    first_.pipeline->Connect(members_);
    second_.pipeline->Connect(members_);
  }
  // A batch of two rows, the first number of which tells it.
  void SendRows(uint64_t number) {
    const float value = float(number) + 0.5f;
    std::memcpy(first_.pipeline->ClaimOutbox(), &value, sizeof(value));
    first_.pipeline->SendBatch({.number = number, .entries = {{.attempt = {1}, .rows = 2}}},
                               kSlotBytes);
  }
  // What a stage gone mad might send.
  void SendNonsense(uint8_t type, std::vector<std::byte> bytes) {
    SendFrom(first_, 1, type, std::move(bytes));
  }
  void SendNonsenseBack(uint8_t type, std::vector<std::byte> bytes) {
    SendFrom(second_, 0, type, std::move(bytes));
  }
  void SendFrom(End& end, int to, uint8_t type, std::vector<std::byte> bytes) {
    auto kept = std::make_shared<std::vector<std::byte>>(std::move(bytes));
    end.transport->Post([this, &end, to, type, kept] {
      const worker::MemberInfo& peer = members_[size_t(to)];
      const auto link = end.links->Connect({.name = absl::StrCat("stage ", to),
                                            .transport_address = peer.transport_address,
                                            .incarnation = peer.incarnation});
      const std::span<const std::byte> pieces[] = {*kept};
      end.links->Send(*link, type, {}, pieces, [kept](const absl::Status&) {});
    });
  }

  kv_transfer::LoopbackHub hub_;
  End first_{hub_, 0}, second_{hub_, 1};
  std::vector<worker::MemberInfo> members_;
};

TEST_F(PipelineTest, BatchesGoOnInOrderWithTheirActivations) {
  for (uint64_t number = 1; number <= 3; ++number) SendRows(number);
  first_.pipeline->SendBatch({.number = 4, .aborts = {{{1}, 1, "why"}}}, 0);
  ASSERT_TRUE(second_.log.WaitFor("batch 4 bytes 0 first 0"));
  EXPECT_EQ(second_.log.events(),
            (std::vector<std::string>{"batch 1 bytes 32 first 1.5", "batch 2 bytes 32 first 2.5",
                                      "batch 3 bytes 32 first 3.5", "batch 4 bytes 0 first 0"}));
}

// The third batch stays in the outbox, and a header without activations does not overtake it.
TEST_F(PipelineTest, ABatchWaitsForASlotAndTheNextOneForTheOutbox) {
  second_.keep_slots = true;
  for (uint64_t number = 1; number <= 3; ++number) SendRows(number);
  first_.pipeline->SendBatch({.number = 4}, 0);
  ASSERT_TRUE(second_.log.WaitFor("batch 2 bytes 32 first 2.5"));
  std::atomic<bool> claimed = false;
  std::jthread step([&] { claimed = first_.pipeline->ClaimOutbox() != nullptr; });
  EXPECT_FALSE(second_.log.WaitFor("batch 3 bytes 32 first 3.5", 1, std::chrono::milliseconds(50)));
  EXPECT_FALSE(claimed);
  second_.pipeline->FreeSlot(1);
  ASSERT_TRUE(second_.log.WaitFor("batch 4 bytes 0 first 0"));
  EXPECT_EQ(second_.log.events()[2], "batch 3 bytes 32 first 3.5");
  step.join();
  EXPECT_TRUE(claimed);
}

TEST_F(PipelineTest, NobodyWaitsForTheOutboxAfterStop) {
  second_.keep_slots = true;
  for (uint64_t number = 1; number <= 3; ++number) SendRows(number);
  std::byte* claimed = first_.memory;
  std::jthread step([&] { claimed = first_.pipeline->ClaimOutbox(); });
  first_.pipeline->Stop();
  step.join();
  EXPECT_EQ(claimed, nullptr);
}

TEST_F(PipelineTest, ReportsReachTheLeaderFromEveryStage) {
  second_.pipeline->Report({.attempt = {5}, .status = absl::InternalError("NaN")});
  first_.pipeline->Report({.attempt = {6}});
  EXPECT_TRUE(first_.log.WaitFor("report 5 NaN"));
  EXPECT_TRUE(first_.log.WaitFor("report 6 "));
}

TEST_F(PipelineTest, NonsenseBreaksTheGroupInsteadOfTheProcess) {
  const auto batch = [](std::vector<std::byte> header, int32_t slot, uint64_t bytes) {
    ByteWriter out;
    out.PutVector<std::byte>(header);
    out.Put(slot);
    out.Put(bytes);
    return out.Take();
  };
  const std::vector<std::byte> header = Encode(BatchHeader{.number = 1});
  SendNonsense(kBatchMessage, {});
  EXPECT_TRUE(second_.log.WaitFor("batch: wrong le"));
  SendNonsense(kBatchMessage, std::vector<std::byte>(4, std::byte{0xff}));
  EXPECT_TRUE(second_.log.WaitFor("batch: wrong le", 2));
  SendNonsense(kBatchMessage, batch(std::vector<std::byte>(3), -1, 0));
  EXPECT_TRUE(second_.log.WaitFor("batch header: w"));
  SendNonsense(kBatchMessage, batch(header, 0, kSlotBytes + 1));
  EXPECT_TRUE(second_.log.WaitFor("batch: 33 bytes"));
  SendNonsense(kBatchMessage, batch(header, 2, 1));
  EXPECT_TRUE(second_.log.WaitFor("batch: 1 bytes "));
}

TEST_F(PipelineTest, NonsenseAboutSlotsBreaksTheGroupToo) {
  first_.pipeline->SendBatch({.number = 1}, 0);  // the slots have been offered
  SendRows(2);
  ASSERT_TRUE(second_.log.WaitFor("batch 2 bytes 32 first 2.5"));
  SendNonsenseBack(kSlotFreeMessage, std::vector<std::byte>(4, std::byte{9}));  // there is none
  EXPECT_TRUE(first_.log.WaitFor("a slot for acti"));
  SendNonsenseBack(kSlotsMessage, std::vector<std::byte>(3));
  EXPECT_TRUE(first_.log.WaitFor("slots for activ"));
}

TEST_F(PipelineTest, ABatchThatIsNotTheNextOneBreaksTheGroup) {
  first_.pipeline->SendBatch({.number = 1}, 0);
  ASSERT_TRUE(second_.log.WaitFor("batch 1 bytes 0 first 0"));
  first_.pipeline->SendBatch({.number = 3}, 0);
  EXPECT_TRUE(second_.log.WaitFor("batch 3 after b"));
  first_.pipeline->SendBatch({.number = 1}, 0);
  EXPECT_TRUE(second_.log.WaitFor("batch 1 after b"));
}

TEST_F(PipelineTest, OnlyThePreviousStagesBatchesAndMembersReportsCount) {
  End stranger(hub_, 7);
  stranger.pipeline->Connect(members_);  // has no place among them
  stranger.pipeline->Report({.attempt = {7}});
  ByteWriter out;
  out.PutVector<std::byte>(Encode(BatchHeader{.number = 1}));
  out.Put(int32_t{-1});
  out.Put(uint64_t{0});
  auto message = std::make_shared<std::vector<std::byte>>(out.Take());
  auto sent = std::make_shared<std::promise<void>>();
  stranger.transport->Post([&, message, sent] {
    const auto link = stranger.links->Connect(second_.links->Self());
    const std::span<const std::byte> whole[] = {*message};
    stranger.links->Send(*link, kBatchMessage, {}, whole,
                         [message, sent](const absl::Status&) { sent->set_value(); });
  });
  sent->get_future().wait();
  second_.pipeline->Report({.attempt = {8}});
  ASSERT_TRUE(first_.log.WaitFor("report 8 "));
  first_.pipeline->SendBatch({.number = 1, .entries = {{.attempt = {1}}}}, 0);
  ASSERT_TRUE(second_.log.WaitFor("batch 1 bytes 0 first 0"));
  EXPECT_EQ(first_.log.events(), (std::vector<std::string>{"report 8 "}));
  EXPECT_EQ(second_.log.events(), (std::vector<std::string>{"batch 1 bytes 0 first 0"}));
}

TEST_F(PipelineTest, ABrokenLinkNamesTheStage) {
  first_.pipeline->SendBatch({.number = 1}, 0);
  ASSERT_TRUE(second_.log.WaitFor("batch 1 bytes 0 first 0"));
  hub_.Break("stage 0", "stage 1");
  EXPECT_TRUE(first_.log.WaitFor("link to stage 1"));
  EXPECT_TRUE(second_.log.WaitFor("link to stage 0"));
}

}  // namespace
}  // namespace baleen::prefill_worker
