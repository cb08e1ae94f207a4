// What decode does in a hand-over. Sender, receiver and links run together over a manual
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

TEST_F(HandOver, EveryStageFillsItsShareOfEachPage) {
  Start(3);
  BeginAll(1, 3);
  receiver_->Grant(Request(1, {7, 4, 9}));
  hub_.Run();
  PagesReadyAll(1, 0, {0, 1});
  hub_.Run();
  EXPECT_TRUE(ready_.empty());
  PagesReadyAll(1, 2, {5});
  HandoffLast(1, 77);
  hub_.Run();
  ASSERT_EQ(ready_.count(1), 1u) << (failed_.count(1) ? failed_[1].ToString() : "not ready");
  EXPECT_EQ(ready_[1].first_token, 77u);
  ExpectPage(7, 0);
  ExpectPage(4, 1);
  ExpectPage(9, 5);
  for (auto& process : prefill_)  // one piece a page and stage
    EXPECT_EQ(Counter(*process, "transfer_sent_pieces_total"), 3);
  EXPECT_TRUE(closed_[0].empty()) << "source pages stay until decode took its first step";
  receiver_->Release(AttemptId{1});
  hub_.Run();
  for (auto& stage : closed_) EXPECT_THAT(stage[1], IsOk());
  EXPECT_TRUE(settled_.empty());
}

// Decode frees nothing while a prefill stage holds a piece back; the next owner's bytes stay whole.
TEST_F(HandOver, TA1_AbortedPagesStayQuarantinedUntilTheHeldPutEnded) {
  Start(2, Transport::Fence::kPeerDeath);
  hub_.SetFaults([](const LoopbackHub::Op& op) {
    return op.from == "prefill-0/1" && IsPagePut(op) ? Fate::kHold : Fate::kPass;
  });
  BeginAll(1, 1);
  receiver_->Grant(Request(1, {5}));
  PagesReadyAll(1, 0, {0});
  hub_.Run();
  receiver_->Cancel(AttemptId{1}, absl::CancelledError("client left"));
  Pass(milliseconds(500));
  EXPECT_EQ(settled_.count(1), 0u) << "stage 1 has a put in flight and has not answered";
  EXPECT_EQ(receiver_->counts().quarantined_pages, 1);
  EXPECT_TRUE(closed_[1].empty()) << "its source page is being read (T-A3)";
  hub_.SetFaults(nullptr);
  hub_.ReleaseHeld();
  hub_.Run();
  EXPECT_EQ(settled_[1], 1);
  EXPECT_EQ(receiver_->counts().quarantined_pages, 0);
  EXPECT_THAT(closed_[1][1], StatusIs(absl::StatusCode::kCancelled, HasSubstr("drained")));
}

TEST_F(HandOver, TA5_AbortBetweenGrantAndFirstPut) {
  Start(2);
  BeginAll(1, 1);
  receiver_->Grant(Request(1, {5}));
  hub_.Run();
  receiver_->Cancel(AttemptId{1}, absl::CancelledError("client left"));
  hub_.Run();
  EXPECT_EQ(settled_[1], 1);
  std::fill_n(decode_->Page(5), decode_->page_bytes(), std::byte{0xCA});  // the next owner's
  PagesReadyAll(1, 0, {0});
  hub_.Run();
  EXPECT_EQ(decode_->Page(5)[0], std::byte{0xCA});
  EXPECT_EQ(decode_->Page(5)[decode_->page_bytes() - 1], std::byte{0xCA});
  EXPECT_EQ(closed_[0].count(1), 1u);
}

TEST_F(HandOver, TA2_LostDrainAckOfOneStageKeepsThePagesUntilItsLinkIsFenced) {
  Start(3);
  hub_.SetFaults([](const LoopbackHub::Op& op) {
    return op.from == "prefill-0/1" && IsMessage(op, MessageType::kDrainAck) ? Fate::kDrop
                                                                             : Fate::kPass;
  });
  BeginAll(1, 2);
  receiver_->Grant(Request(1, {5, 6}));
  PagesReadyAll(1, 0, {0});
  hub_.Run();
  receiver_->Cancel(AttemptId{1}, absl::CancelledError("client left"));
  Pass(milliseconds(1900));
  EXPECT_EQ(settled_.count(1), 0u);
  Pass(milliseconds(300));  // drain_ack_timeout is 2 s; the wire's own close is a fence
  EXPECT_EQ(settled_[1], 1);
  EXPECT_EQ(Counter(*decode_, "transfer_fences_total"), 1);
}

// Over a slow network the answer waits behind what was posted before Drain came.
TEST_F(HandOver, TA2_AWriterWhoseChunksStillLandIsNotFenced) {
  Start(1);
  hub_.SetFaults([](const LoopbackHub::Op& op) {
    return IsMessage(op, MessageType::kDrainAck) ? Fate::kDrop : Fate::kPass;
  });
  BeginAll(1, 1);
  BeginAll(2, 4);
  receiver_->Grant(Request(1, {5}));
  receiver_->Grant(Request(2, {6, 7, 8, 9}));
  hub_.Run();
  receiver_->Cancel(AttemptId{1}, absl::CancelledError("client left"));
  for (int page = 0; page < 4; ++page) {
    Pass(milliseconds(1500));
    PagesReadyAll(2, page, {page});
  }
  HandoffLast(2);
  Pass(milliseconds(1900));
  EXPECT_EQ(ready_.count(2), 1u);
  EXPECT_EQ(Counter(*decode_, "transfer_fences_total"), 0);
  Pass(milliseconds(300));  // nothing has landed for drain_ack_timeout
  EXPECT_EQ(Counter(*decode_, "transfer_fences_total"), 1);
  EXPECT_EQ(settled_[1], 1);
}

TEST_F(HandOver, ChunksThatWaitBehindOthersAreNotStuck) {
  Start(2);
  BeginAll(1, 1);
  BeginAll(2, 8);
  receiver_->Grant(Request(1, {5}));
  receiver_->Grant(Request(2, {6, 7, 8, 9, 10, 11, 12, 13}));
  senders_[1]->PagesReady(AttemptId{1}, 0, {PageId{0}});
  HandoffLast(1);
  hub_.Run();
  for (int page = 0; page < 7; ++page) {  // of the stage whose page of 1 is missing
    Pass(seconds(5));
    senders_[0]->PagesReady(AttemptId{2}, page, {PageId{page}});
    hub_.Run();
  }
  EXPECT_EQ(failed_.count(1), 0u);
  senders_[0]->PagesReady(AttemptId{1}, 0, {PageId{0}});
  hub_.Run();
  EXPECT_EQ(ready_.count(1), 1u);
}

TEST_F(HandOver, AStageThatCannotBeAnyProcessFailsTheGrantAlone) {
  Start(2);
  KvReceiver::GrantRequest request = Request(1, {5});
  request.stages[1].peer.incarnation = {};
  receiver_->Grant(request);
  Pass(milliseconds(100));
  EXPECT_EQ(failed_.count(1), 1u);
  EXPECT_EQ(settled_[1], 1);
}

TEST_F(HandOver, TA2_ChunksPostedBeforeDrainAreShownWhenTheyLand) {
  Start(1);
  hub_.SetFaults(
      [](const LoopbackHub::Op& op) { return IsPagePut(op) ? Fate::kHold : Fate::kPass; });
  BeginAll(1, 2);
  receiver_->Grant(Request(1, {5, 6}));
  PagesReadyAll(1, 0, {0});
  PagesReadyAll(1, 1, {1});
  hub_.Run();
  receiver_->Cancel(AttemptId{1}, absl::CancelledError("client left"));
  Pass(milliseconds(100));
  EXPECT_EQ(settled_.count(1), 0u);
  hub_.ReleaseHeld();
  hub_.Run();
  EXPECT_EQ(Dropped(*decode_, "late_chunk"), 2) << "of an attempt in quarantine";
  EXPECT_EQ(settled_[1], 1);
}

TEST_F(HandOver, TA2_RepeatedAcksOfOneStageDoNotCountForAnother) {
  Start(2);
  hub_.SetFaults([](const LoopbackHub::Op& op) {
    if (!IsMessage(op, MessageType::kDrainAck)) return Fate::kPass;
    return op.from == "prefill-0/0" ? Fate::kDuplicate : Fate::kHold;
  });
  BeginAll(1, 1);
  receiver_->Grant(Request(1, {5}));
  hub_.Run();
  receiver_->Cancel(AttemptId{1}, absl::CancelledError("client left"));
  hub_.Run();
  EXPECT_EQ(settled_.count(1), 0u);
  hub_.ReleaseHeld();
  hub_.Run();
  EXPECT_EQ(settled_[1], 1);
}

TEST_F(HandOver, TA2_AnAckInAnotherStagesNameDoesNotCount) {
  Start(2);
  GrantId grant;
  LinkId link;
  for (auto& process : prefill_)  // two writers that only answer when the test says so
    process->links->SetHandler(uint8_t(MessageType::kDrain),
                               [&](LinkId from, std::span<const std::byte>, Buffer payload) {
                                 grant = Decode<Drain>(payload)->grant;
                                 link = from;
                               });
  receiver_->Grant(Request(1, {5}));
  hub_.Run();
  receiver_->Cancel(AttemptId{1}, absl::CancelledError("client left"));
  hub_.Run();
  const LinkId second = *prefill_[1]->links->Find(decode_->links->options().incarnation);
  const LinkId first = *prefill_[0]->links->Find(decode_->links->options().incarnation);
  prefill_[1]->links->SendMessage(second, DrainAck{.grant = grant, .stage = 0});
  prefill_[1]->links->SendMessage(second, DrainAck{.grant = grant, .stage = 1});
  prefill_[1]->links->SendMessage(second, DrainAck{.grant = grant, .stage = 7});
  hub_.Run();
  EXPECT_EQ(settled_.count(1), 0u);
  EXPECT_EQ(Dropped(*decode_, "wrong_writer"), 2);
  prefill_[0]->links->SendMessage(first, DrainAck{.grant = grant, .stage = 0});
  hub_.Run();
  EXPECT_EQ(settled_[1], 1);
}

// The hung writer of a path without a fence: nothing but its end or its answer frees the pages.
TEST_F(HandOver, TA16_WithoutAFenceOnlyAnAckOrDeathEndsTheQuarantine) {
  Start(1, Transport::Fence::kPeerDeath);
  hub_.SetFaults([](const LoopbackHub::Op& op) {
    return op.from == "prefill-0/0" && IsPagePut(op) ? Fate::kHold : Fate::kPass;
  });
  BeginAll(1, 1);
  receiver_->Grant(Request(1, {5}));
  PagesReadyAll(1, 0, {0});
  hub_.Run();
  receiver_->Cancel(AttemptId{1}, absl::CancelledError("client left"));
  Pass(seconds(30));
  EXPECT_EQ(settled_.count(1), 0u);
  EXPECT_EQ(receiver_->counts().quarantined_pages, 1);
  std::fill_n(decode_->Page(5), decode_->page_bytes(), std::byte{0xCA});
  hub_.ReleaseHeld();  // it wakes up and writes: into a page that nobody was given
  hub_.Run();
  EXPECT_NE(decode_->Page(5)[1], std::byte{0xCA});
  decode_->links->ProcessGone(prefill_[0]->links->options().incarnation);
  Pass(milliseconds(100));
  EXPECT_EQ(settled_[1], 1);
}

TEST_F(HandOver, TA16_AWriterThatComesBackOverANewLinkAnswersTheOldDrain) {
  Start(1, Transport::Fence::kPeerDeath);
  BeginAll(1, 1);
  receiver_->Grant(Request(1, {5}));
  hub_.Run();
  hub_.Break("prefill-0/0", "decode-0/0");
  hub_.Run();
  EXPECT_THAT(failed_[1], StatusIs(absl::StatusCode::kUnavailable, HasSubstr("wire broken")));
  Pass(seconds(5));
  EXPECT_EQ(settled_.count(1), 0u);
  receiver_->Grant(Request(2, {6}));  // connects again
  Pass(milliseconds(100));
  EXPECT_EQ(settled_[1], 1);
  EXPECT_EQ(failed_.count(2), 0u);
}

// The peer has posted nothing more, but our end of the old link may still fetch what it had.
TEST_F(HandOver, TA16_AnAckOverANewLinkDoesNotEndFetchesOverTheOldOne) {
  Start(1);
  BeginAll(1, 1);
  receiver_->Grant(Request(1, {5}));
  hub_.Run();
  hub_.HoldCloses();
  hub_.Break("prefill-0/0", "decode-0/0");
  hub_.Run();
  receiver_->Grant(Request(2, {6}));  // connects again
  Pass(seconds(1));
  EXPECT_EQ(settled_.count(1), 0u);
  EXPECT_EQ(receiver_->counts().quarantined_pages, 1);
  hub_.ReleaseHeld();
  Pass(milliseconds(100));
  EXPECT_EQ(settled_[1], 1);
  EXPECT_EQ(failed_.count(2), 0u);
}

TEST_F(HandOver, TA12_AMissingComponentIsAnErrorThatNamesIt) {
  Start(1);  // the stage brings the latent rows only
  BeginAll(1, 1);
  auto request = Request(1, {5});
  request.stages[0].components = kComponentLatent | kComponentIndex;
  receiver_->Grant(std::move(request));
  PagesReadyAll(1, 0, {0});
  HandoffLast(1);
  hub_.Run();
  EXPECT_TRUE(ready_.empty());
  EXPECT_THAT(failed_[1],
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("KV_INCOMPLETE: index missing")));
  EXPECT_EQ(Counter(*decode_, "transfer_missing_component_total", {{"component", "index"}}), 1);
}

TEST_F(HandOver, TA12_AChunkWithOtherBytesThanItsPagesHaveIsRefused) {
  Start(1);
  prefill_[0]->links->SetHandler(
      uint8_t(MessageType::kGrant), [&](LinkId link, std::span<const std::byte>, Buffer payload) {
        prefill_[0]->links->SendMessage(link, ChunkDone{.grant = Decode<Grant>(payload)->grant,
                                                        .page_count = 2,
                                                        .components = kComponentLatent,
                                                        .bytes = prefill_[0]->page_bytes()});
      });
  receiver_->Grant(Request(1, {5, 6}));
  hub_.Run();
  EXPECT_THAT(failed_[1], StatusIs(absl::StatusCode::kDataLoss,
                                   HasSubstr("KV_INCOMPLETE: chunk 0 of stage 0")));
}

TEST_F(HandOver, TA12_NotReadyWhileOneStageIsMissing) {
  Start(2);
  BeginAll(1, 1);
  receiver_->Grant(Request(1, {5}));
  senders_[1]->PagesReady(AttemptId{1}, 0, {PageId{0}});
  HandoffLast(1);
  Pass(seconds(9));
  EXPECT_TRUE(ready_.empty());
  EXPECT_TRUE(failed_.empty());
  Pass(seconds(2));  // transfer_timeout after Handoff
  EXPECT_THAT(failed_[1], StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("arriving")));
}

TEST_F(HandOver, StagesThatDoNotTileThePageAreRefused) {
  Start(2);
  senders_.clear();
  prefill_.pop_back();  // leaves stage 0 of 2 alone, asked as if it were all
  KvSenderOptions options = {.stage = 0, .stages = 1};
  senders_.push_back(KvSender::Create(*prefill_[0]->links, options,
                                      {.closed = [](AttemptId, absl::Status) {}},
                                      prefill_[0]->metrics));
  BeginAll(1, 1);
  receiver_->Grant(Request(1, {5}));
  PagesReadyAll(1, 0, {0});
  HandoffLast(1);
  hub_.Run();
  EXPECT_THAT(failed_[1], StatusIs(absl::StatusCode::kDataLoss, HasSubstr("of a page")));
}

TEST_F(HandOver, AnotherPromptHashIsRefused) {
  Start(1);
  BeginAll(1, 1);
  auto request = Request(1, {5});
  request.prompt_hash = 99;
  receiver_->Grant(std::move(request));
  PagesReadyAll(1, 0, {0});
  HandoffLast(1);
  hub_.Run();
  EXPECT_THAT(failed_[1], StatusIs(absl::StatusCode::kDataLoss, HasSubstr("another prompt")));
}

TEST_F(HandOver, TA14_CancelAfterReadyReturnsThePagesAtOnce) {
  Start(2);
  BeginAll(1, 1);
  receiver_->Grant(Request(1, {5}));
  PagesReadyAll(1, 0, {0});
  HandoffLast(1);
  hub_.Run();
  ASSERT_EQ(ready_.count(1), 1u);
  receiver_->Cancel(AttemptId{1}, absl::CancelledError("client left"));
  hub_.Run();
  EXPECT_EQ(settled_[1], 1);
  for (auto& stage : closed_) EXPECT_EQ(stage[1].code(), absl::StatusCode::kCancelled);
}

TEST_F(HandOver, TB1_PrefillThatVanishesFailsTheAttemptAndFreesThePages) {
  Start(2);
  BeginAll(1, 2);
  receiver_->Grant(Request(1, {5, 6}));
  PagesReadyAll(1, 0, {0});
  hub_.Run();
  senders_[1].reset();
  prefill_[1]->links.reset();
  prefill_[1]->transport.reset();
  Pass(milliseconds(100));
  EXPECT_THAT(failed_[1], StatusIs(absl::StatusCode::kUnavailable, HasSubstr("prefill-0/1")));
  EXPECT_EQ(settled_[1], 1) << "stage 0 answered the drain, stage 1's wire is fenced";
}

TEST_F(HandOver, PrefillMayVanishOnceEverythingIsThere) {
  Start(1);
  BeginAll(1, 1);
  receiver_->Grant(Request(1, {5}));
  PagesReadyAll(1, 0, {0});
  HandoffLast(1);
  hub_.Run();
  hub_.Break("prefill-0/0", "decode-0/0");
  hub_.Run();
  EXPECT_EQ(ready_.count(1), 1u);
  EXPECT_TRUE(failed_.empty());
  EXPECT_THAT(closed_[0][1], StatusIs(absl::StatusCode::kUnavailable, HasSubstr("wire")));
  receiver_->Release(AttemptId{1});
  hub_.Run();
}

TEST_F(HandOver, TB4_WaitingForPrefillIsNeverAFailure) {
  Start(1);
  receiver_->Grant(Request(1, {5}));
  Pass(seconds(200));  // many times the grant's time to live, the lease and the transfer timeout
  EXPECT_TRUE(failed_.empty());
  BeginAll(1, 1);
  PagesReadyAll(1, 0, {0});
  HandoffLast(1);
  hub_.Run();
  EXPECT_EQ(ready_.count(1), 1u);
}

TEST_F(HandOver, TC6_TheFirstErrorIsTheOneReported) {
  Start(2);
  BeginAll(1, 1);
  receiver_->Grant(Request(1, {5}));
  hub_.Run();
  senders_[0]->Abort(AttemptId{1}, absl::InternalError("first"));
  hub_.Run();
  senders_[1]->Abort(AttemptId{1}, absl::InternalError("second"));
  hub_.Run();
  EXPECT_THAT(failed_[1], StatusIs(absl::StatusCode::kInternal, HasSubstr("first")));
  EXPECT_EQ(settled_[1], 1);
}

TEST_F(HandOver, TC11_WordOfEndedAttemptsIsIgnoredAndCounted) {
  Start(1);
  hub_.SetFaults([](const LoopbackHub::Op& op) {
    return IsMessage(op, MessageType::kChunkDone) ? Fate::kDuplicate : Fate::kPass;
  });
  BeginAll(1, 1);
  receiver_->Grant(Request(1, {5}));
  PagesReadyAll(1, 0, {0});
  hub_.Run();
  EXPECT_EQ(Dropped(*decode_, "repeated"), 1);
  HandoffLast(1);
  hub_.Run();
  receiver_->Release(AttemptId{1});
  hub_.Run();
  receiver_->Release(AttemptId{1});
  receiver_->Cancel(AttemptId{1}, absl::CancelledError("late"));
  senders_[0]->Abort(AttemptId{1}, absl::CancelledError("late"));
  hub_.Run();
  EXPECT_TRUE(settled_.empty());
  EXPECT_TRUE(failed_.empty());
}

// Half of the attempts are cancelled at random moments on random sides while messages are
// duplicated; each ends, finished ones have the right bytes, nothing is left over.
TEST_F(HandOver, TC2_RandomCancellationsLeaveNothingBehind) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 rng(seed);
  Start(3);
  hub_.SetFaults([&](const LoopbackHub::Op& op) {
    const bool hello = op.message_type < uint8_t(MessageType::kGrant);
    return op.kind == OpKind::kMessage && !hello && rng() % 8 == 0 ? Fate::kDuplicate : Fate::kPass;
  });
  for (uint64_t attempt = 1; attempt <= 200; ++attempt) {
    const int total = 1 + int(rng() % 4);
    std::vector<int> d, p;
    for (int i = 0; i < total; ++i) d.push_back(int(attempt * 5 + uint64_t(i)) % kPages);
    for (int i = 0; i < total; ++i) p.push_back(int(rng() % kPages));
    int step = 0;
    const int stop = rng() % 2 ? int(rng() % 6) : 100;
    const auto act = [&](auto f) {
      if (step++ == stop) {
        if (rng() % 2)
          receiver_->Cancel(AttemptId{attempt}, absl::CancelledError("random"));
        else
          senders_[rng() % 3]->Abort(AttemptId{attempt}, absl::CancelledError("random"));
      }
      f();
      if (rng() % 2) hub_.Run();
    };
    act([&] { BeginAll(attempt, total); });
    act([&] { receiver_->Grant(Request(attempt, d)); });
    for (int i = 0; i < total; ++i) act([&] { PagesReadyAll(attempt, i, {p[size_t(i)]}); });
    act([&] { HandoffLast(attempt); });
    hub_.Run();
    if (ready_.count(attempt)) {
      for (int i = 0; i < total; ++i) ExpectPage(d[size_t(i)], p[size_t(i)]);
      receiver_->Release(AttemptId{attempt});
    } else if (!settled_.count(attempt)) {  // aborted before the grant, or at prefill alone
      receiver_->Cancel(AttemptId{attempt}, absl::CancelledError("late"));
    }
    for (auto& sender : senders_) sender->Abort(AttemptId{attempt}, absl::CancelledError("router"));
    Pass(milliseconds(40));
    for (auto& stage : closed_) ASSERT_EQ(stage.count(attempt), 1u) << "attempt " << attempt;
  }
  const KvReceiver::Counts counts = receiver_->counts();
  EXPECT_EQ(counts.granted + counts.receiving + counts.ready + counts.quarantined, 0);
  EXPECT_EQ(counts.quarantined_pages, 0);
  EXPECT_GT(ready_.size(), 50u);
}

}  // namespace
}  // namespace baleen::kv_transfer::testing
