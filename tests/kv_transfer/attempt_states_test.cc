// The state machines of an attempt on both sides, over all (state, event) pairs and on random
// walks.
#include <random>

#include "gtest/gtest.h"
#include "kv_transfer/decode_attempt.h"
#include "kv_transfer/prefill_attempt.h"

namespace baleen::kv_transfer {
namespace {

TEST(PrefillAttempt, TheStraightWay) {
  using enum PrefillEvent;
  PrefillState s = PrefillState::kQueued;
  for (PrefillEvent e : {kScheduled, kLastChunk, kAllSent, kReleased}) s = *Next(s, e);
  EXPECT_EQ(s, PrefillState::kClosed);
}

TEST(PrefillAttempt, ClosedIsFinal) {
  for (PrefillEvent e : kPrefillEvents) EXPECT_EQ(Next(PrefillState::kClosed, e), std::nullopt);
}

// Source pages may be read until kClosed, and whatever still posts must pass kDraining on failure.
TEST(PrefillAttempt, NothingThatPostsIsClosedWithoutDraining) {
  for (PrefillState s : kPrefillStates)
    for (PrefillEvent e : kPrefillEvents) {
      const auto next = Next(s, e);
      if (MayPost(s) && next) {
        EXPECT_NE(*next, PrefillState::kClosed) << Name(s);
      }
      if (next && MayPost(*next)) {
        EXPECT_TRUE(MayPost(s) || s == PrefillState::kQueued) << Name(s);
      }
    }
}

TEST(PrefillAttempt, EveryStateCanBeTornDown) {
  for (PrefillState start : kPrefillStates)
    for (PrefillEvent how : {PrefillEvent::kFailed, PrefillEvent::kPeerLost}) {
      PrefillState s = Next(start, how).value_or(start);
      s = Next(s, PrefillEvent::kQuiet).value_or(s);
      EXPECT_EQ(s, PrefillState::kClosed) << "from " << Name(start);
    }
}

TEST(DecodeAttempt, TheStraightWay) {
  using enum DecodeEvent;
  DecodeState s = DecodeState::kWaiting;
  for (DecodeEvent e : {kPagesReserved, kFirstChunk, kManifestComplete, kScheduled, kFinished})
    s = *Next(s, e);
  EXPECT_EQ(s, DecodeState::kDone);
}

// The invariants the pool relies on: pages are taken on one edge only, and never returned while a
// writer may write.
TEST(DecodeAttempt, OnlyReservationAcquiresPages) {
  for (DecodeState s : kDecodeStates)
    for (DecodeEvent e : kDecodeEvents) {
      const auto next = Next(s, e);
      if (next && !HoldsPages(s) && HoldsPages(*next)) {
        EXPECT_EQ(e, DecodeEvent::kPagesReserved) << Name(s);
      }
    }
}

TEST(DecodeAttempt, WritersLeaveOnlyByTheManifestOrByBeingSettled) {
  for (DecodeState s : kDecodeStates)
    for (DecodeEvent e : kDecodeEvents) {
      const auto next = Next(s, e);
      if (!next || !WritersMayWrite(s) || WritersMayWrite(*next)) continue;
      EXPECT_TRUE(e == DecodeEvent::kManifestComplete || e == DecodeEvent::kWritersSettled)
          << Name(s);
    }
  EXPECT_EQ(Next(DecodeState::kQuarantine, DecodeEvent::kFailed), std::nullopt);
  EXPECT_EQ(Next(DecodeState::kQuarantine, DecodeEvent::kManifestComplete), std::nullopt);
}

TEST(DecodeAttempt, EveryStateCanBeTornDown) {
  for (DecodeState start : kDecodeStates) {
    DecodeState s = Next(start, DecodeEvent::kFailed).value_or(start);
    s = Next(s, DecodeEvent::kWritersSettled).value_or(s);
    EXPECT_EQ(s, DecodeState::kDone) << "from " << Name(start);
  }
}

TEST(DecodeAttempt, RandomWalksReturnEveryPage) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 rng(seed);
  for (int walk = 0; walk < 2000; ++walk) {
    DecodeState s = DecodeState::kWaiting;
    int pages = 0;
    for (int step = 0; step < 200 && s != DecodeState::kDone; ++step) {
      const auto next = Next(s, kDecodeEvents[rng() % kDecodeEvents.size()]);
      if (!next) continue;
      pages += HoldsPages(*next) - HoldsPages(s);
      s = *next;
      ASSERT_EQ(pages, HoldsPages(s) ? 1 : 0);
    }
    if (s == DecodeState::kDone) {
      ASSERT_EQ(pages, 0);
    }
  }
}

TEST(PrefillAttempt, RandomWalksReleaseTheSourceOnce) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 rng(seed);
  for (int walk = 0; walk < 2000; ++walk) {
    PrefillState s = PrefillState::kQueued;
    int released = 0;
    for (int step = 0; step < 200; ++step) {
      const auto next = Next(s, kPrefillEvents[rng() % kPrefillEvents.size()]);
      if (!next) continue;
      released += HoldsSourcePages(s) && !HoldsSourcePages(*next);
      s = *next;
    }
    ASSERT_EQ(released, s == PrefillState::kClosed ? 1 : 0);
  }
}

}  // namespace
}  // namespace baleen::kv_transfer
