#include "prefill_worker/activation_wire.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "common/wire.h"
#include "prefill_worker/stage_report.h"
#include "testing/loopback_transport.h"
#include "testing/status_matchers.h"

namespace baleen::prefill_worker {
namespace {

using ::baleen::testing::StatusIs;
using kv_transfer::Buffer;
using kv_transfer::LinkId;
using kv_transfer::LoopbackHub;
using ::testing::HasSubstr;

constexpr size_t kSlotBytes = 64;

struct End {
  End(LoopbackHub& hub, const std::string& name, uint64_t incarnation)
      : transport(hub.Create(name)),
        links(*kv_transfer::LinkTable::Create(
            *transport, {.name = name, .incarnation = {incarnation}}, metrics)) {}
  Metrics metrics;
  std::unique_ptr<kv_transfer::Transport> transport;
  std::unique_ptr<kv_transfer::LinkTable> links;
};

// A stage with an outbox and the next one with slots, on the test's thread.
class ActivationWire : public ::testing::Test {
 protected:
  ActivationWire() {
    here_.links->SetHandler(kSlotsMessage, [this](LinkId link, auto, Buffer message) {
      offered_.push_back(outbox_.OnOffer(link, message.span()));
    });
    here_.links->SetHandler(kSlotFreeMessage, [this](LinkId, auto, Buffer message) {
      freed_.push_back(outbox_.OnFree(message.span()));
    });
    next_ = *here_.links->Connect(there_.links->Self());
    hub_.Run();
    previous_ = *there_.links->Find(here_.links->Self().incarnation);
  }
  ~ActivationWire() override {
    outbox_.Close();
    slots_.Close();
  }
  void Send(uint8_t value, size_t bytes) {
    std::byte* const outbox = outbox_.Claim();
    ASSERT_NE(outbox, nullptr);
    std::memset(outbox, value, bytes);
    outbox_.Send(next_, bytes, [this](absl::StatusOr<int> slot) { sent_.push_back(slot); });
    hub_.Run();
  }
  uint8_t FirstByte(int slot) { return uint8_t((*slots_.Contents(slot, 1))[0]); }

  LoopbackHub hub_{LoopbackHub::Mode::kManual};
  End here_{hub_, "stage 0", 10}, there_{hub_, "stage 1", 11};
  std::vector<std::byte> memory_ = std::vector<std::byte>(3 * kSlotBytes);
  ActivationSlots slots_{*there_.links, {.slot_bytes = kSlotBytes, .in = memory_.data()}};
  ActivationOutbox outbox_{*here_.links,
                           {.slot_bytes = kSlotBytes, .out = memory_.data() + 2 * kSlotBytes}};
  LinkId next_, previous_;
  std::vector<absl::Status> offered_, freed_;
  std::vector<absl::StatusOr<int>> sent_;
};

TEST_F(ActivationWire, WhatTheOutboxHoldsWaitsForTheOffer) {
  Send(1, 10);
  EXPECT_TRUE(sent_.empty());
  BALEEN_ASSERT_OK(slots_.Offer(previous_));
  hub_.Run();
  ASSERT_EQ(sent_.size(), 1u);
  EXPECT_EQ(*sent_[0], 0);
  EXPECT_EQ(FirstByte(0), 1);
}

TEST_F(ActivationWire, ASlotIsUsedAgainOnlyOnceItIsFree) {
  BALEEN_ASSERT_OK(slots_.Offer(previous_));
  hub_.Run();
  Send(1, kSlotBytes);
  Send(2, kSlotBytes);
  Send(3, kSlotBytes);
  ASSERT_EQ(sent_.size(), 2u);
  EXPECT_EQ(FirstByte(0), 1);
  EXPECT_EQ(FirstByte(1), 2);
  slots_.Free(previous_, 1);
  hub_.Run();
  ASSERT_EQ(sent_.size(), 3u);
  EXPECT_EQ(*sent_[2], 1);
  EXPECT_EQ(FirstByte(1), 3);
  EXPECT_EQ(FirstByte(0), 1);
}

TEST_F(ActivationWire, ABrokenLinkIsTheErrorOfTheSend) {
  BALEEN_ASSERT_OK(slots_.Offer(previous_));
  hub_.Run();
  hub_.SetFaults([](const LoopbackHub::Op& op) {
    return op.kind == LoopbackHub::OpKind::kFlush ? LoopbackHub::Fate::kFail
                                                  : LoopbackHub::Fate::kPass;
  });
  Send(1, 10);
  ASSERT_EQ(sent_.size(), 1u);
  EXPECT_EQ(sent_[0].status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(outbox_.Claim(), nullptr);
}

TEST_F(ActivationWire, NonsenseIsRefused) {
  ByteWriter small;
  small.Put(uint64_t{0});
  small.Put(uint64_t{kSlotBytes - 1});
  small.PutString("key");
  EXPECT_THAT(outbox_.OnOffer(next_, small.bytes()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("chunk_tokens")));
  EXPECT_THAT(outbox_.OnOffer(next_, std::span(small.bytes()).first(5)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("wrong length")));
  BALEEN_ASSERT_OK(slots_.Offer(previous_));
  hub_.Run();
  slots_.Free(previous_, 0);  // it is free
  slots_.Free(previous_, kActivationSlots);
  hub_.Run();
  ASSERT_EQ(freed_.size(), 2u);
  for (const absl::Status& status : freed_)
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not in use")));
  EXPECT_THAT(slots_.Contents(kActivationSlots, 1).status(),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("slot 2")));
  EXPECT_THAT(slots_.Contents(0, kSlotBytes + 1).status(),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("65 bytes")));
  EXPECT_TRUE(slots_.Contents(-1, 0)->empty());
}

TEST_F(ActivationWire, NobodyWaitsForTheOutboxAfterStop) {
  Send(1, 10);  // stays: nothing was offered
  std::byte* claimed = memory_.data();
  std::jthread step([&] { claimed = outbox_.Claim(); });
  outbox_.Stop();
  step.join();
  EXPECT_EQ(claimed, nullptr);
}

}  // namespace
}  // namespace baleen::prefill_worker
