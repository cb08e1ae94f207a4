// What prefill does in a hand-over. Sender, receiver and links run together over a manual
// LoopbackHub; TA1_ and the like name the case of docs/failure_cases.md.
#include <random>

#include "testing/status_matchers.h"
#include "tests/kv_transfer/hand_over_fixture.h"

namespace baleen::kv_transfer::testing {
namespace {

using ::baleen::testing::IsOk;
using ::baleen::testing::StatusIs;
using ::testing::HasSubstr;
using Fate = LoopbackHub::Fate;
using OpKind = LoopbackHub::OpKind;
using std::chrono::milliseconds;
using std::chrono::seconds;

bool IsMessage(const LoopbackHub::Op& op, MessageType type) {
  return op.kind == OpKind::kMessage && op.message_type == uint8_t(type);
}
// A put of pages, not the probe at link-up (whose size is 4096).
bool IsPagePut(const LoopbackHub::Op& op) { return op.kind == OpKind::kPut && op.bytes != 4096; }

TEST_F(HandOver, PagesWaitForTheGrantAndTheGrantWaitsForBegin) {
  Start(2);
  BeginAll(1, 1);
  PagesReadyAll(1, 0, {3});
  HandoffLast(1);
  receiver_->Grant(Request(2, {8}));  // attempt 2 has not begun
  hub_.Run();
  EXPECT_TRUE(ready_.empty());
  EXPECT_EQ(granted_[2], 2) << "every stage hears of it before Begin";
  receiver_->Grant(Request(1, {2}));
  BeginAll(2, 1);
  PagesReadyAll(2, 0, {6});
  HandoffLast(2);
  hub_.Run();
  EXPECT_EQ(ready_.size(), 2u);
  ExpectPage(2, 3);
  ExpectPage(8, 6);
}

TEST_F(HandOver, TA3_AbortAtPrefillHoldsSourcePagesUntilItsPutsCompleted) {
  Start(1);
  hub_.SetFaults(
      [](const LoopbackHub::Op& op) { return IsPagePut(op) ? Fate::kHold : Fate::kPass; });
  BeginAll(1, 2);
  receiver_->Grant(Request(1, {5, 6}));
  PagesReadyAll(1, 0, {0, 1});
  hub_.Run();
  senders_[0]->Abort(AttemptId{1}, absl::CancelledError("router gave up"));
  Pass(milliseconds(100));
  EXPECT_TRUE(closed_[0].empty());
  hub_.SetFaults(nullptr);
  hub_.ReleaseHeld();
  hub_.Run();
  EXPECT_THAT(closed_[0][1], StatusIs(absl::StatusCode::kCancelled, HasSubstr("router gave up")));
  EXPECT_THAT(failed_[1], StatusIs(absl::StatusCode::kCancelled, HasSubstr("router gave up")));
  EXPECT_EQ(settled_[1], 1);
}

TEST_F(HandOver, TA7_PageIdsOutsideDecodesPoolAreRefused) {
  Start(1);
  BeginAll(1, 1);
  receiver_->Grant(Request(1, {kPages + 3}));
  PagesReadyAll(1, 0, {0});
  hub_.Run();
  EXPECT_THAT(failed_[1], StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("page 35 of 32")));
  EXPECT_EQ(settled_[1], 1);
}

TEST_F(HandOver, TB7_ExpiryNeedsNoNewWork) {
  Start(1);
  hub_.SetFaults(
      [](const LoopbackHub::Op& op) { return IsPagePut(op) ? Fate::kDrop : Fate::kPass; });
  BeginAll(1, 1);
  receiver_->Grant(Request(1, {5}));
  PagesReadyAll(1, 0, {0});
  hub_.Run();
  Pass(seconds(11));
  EXPECT_THAT(closed_[0][1], StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no progress")));
  EXPECT_EQ(failed_.count(1), 1u);
  EXPECT_EQ(settled_[1], 1);
}

TEST_F(HandOver, TB9_AFailedPutIsReportedToDecodeAtOnce) {
  Start(1);
  hub_.SetFaults(
      [](const LoopbackHub::Op& op) { return IsPagePut(op) ? Fate::kFail : Fate::kPass; });
  BeginAll(1, 1);
  receiver_->Grant(Request(1, {5}));
  PagesReadyAll(1, 0, {0});
  hub_.Run();
  EXPECT_THAT(failed_[1], StatusIs(absl::StatusCode::kUnavailable, HasSubstr("injected")));
  EXPECT_THAT(closed_[0][1], StatusIs(absl::StatusCode::kUnavailable, HasSubstr("injected")));
}

TEST_F(HandOver, GrantEndsAtPrefillWhenDecodeFallsSilent) {
  Start(1);
  hub_.SetFaults([](const LoopbackHub::Op& op) {  // renewals are lost, pings are not
    static int grants = 0;
    return IsMessage(op, MessageType::kGrant) && grants++ > 0 ? Fate::kDrop : Fate::kPass;
  });
  BeginAll(1, 1);
  receiver_->Grant(Request(1, {5}));
  Pass(seconds(61));
  PagesReadyAll(1, 0, {0});
  hub_.Run();
  EXPECT_THAT(closed_[0][1], StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("live")));
  EXPECT_EQ(failed_.count(1), 1u);
}

TEST_F(HandOver, ADrainBeforeBeginEndsTheAttemptWhenItBegins) {
  Start(1);
  receiver_->Grant(Request(1, {5}));
  hub_.Run();
  receiver_->Cancel(AttemptId{1}, absl::CancelledError("client left"));
  hub_.Run();
  EXPECT_EQ(settled_[1], 1);
  BeginAll(1, 1);
  hub_.Run();
  EXPECT_EQ(closed_[0][1].code(), absl::StatusCode::kCancelled);
}

TEST_F(HandOver, AGrantForAnEndedAttemptIsAnsweredWithItsReason) {
  Start(1);
  BeginAll(1, 1);
  hub_.Run();
  senders_[0]->Abort(AttemptId{1}, absl::ResourceExhaustedError("no pages at prefill"));
  hub_.Run();
  receiver_->Grant(Request(1, {5}));
  hub_.Run();
  EXPECT_THAT(failed_[1], StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("no pages")));
  EXPECT_EQ(settled_[1], 1);
}

TEST_F(HandOver, TheWindowLimitsChunksInFlight) {
  Start(1, Transport::Fence::kOwnClose, {.window_chunks = 2});
  int puts = 0;
  hub_.SetFaults([&](const LoopbackHub::Op& op) {
    if (!IsPagePut(op)) return Fate::kPass;
    ++puts;
    return Fate::kHold;
  });
  BeginAll(1, 4);
  receiver_->Grant(Request(1, {5, 6, 7, 8}));
  hub_.Run();
  for (int page = 0; page < 4; ++page) PagesReadyAll(1, page, {page});
  HandoffLast(1);
  hub_.Run();
  EXPECT_EQ(puts, 2);
  hub_.SetFaults(nullptr);
  hub_.ReleaseHeld();
  hub_.Run();
  EXPECT_EQ(ready_.count(1), 1u);
}

}  // namespace
}  // namespace baleen::kv_transfer::testing
