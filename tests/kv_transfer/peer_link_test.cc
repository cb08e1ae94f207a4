#include "kv_transfer/peer_link.h"

#include <random>

#include "gtest/gtest.h"

namespace baleen::kv_transfer {
namespace {

using enum LinkState;

TEST(PeerLink, TheWayUp) {
  LinkState s = kDown;
  for (LinkEvent e : {LinkEvent::kConnect, LinkEvent::kAccepted, LinkEvent::kProbeOk})
    s = *Next(s, e);
  EXPECT_EQ(s, kUp);
}

// Pages move only over a link that a probe has crossed.
TEST(PeerLink, OnlyAProbeMakesItCarryPages) {
  for (LinkState s : kLinkStates)
    for (LinkEvent e : kLinkEvents) {
      const auto next = Next(s, e);
      if (next && !CarriesPages(s) && CarriesPages(*next)) {
        EXPECT_EQ(e, LinkEvent::kProbeOk);
      }
    }
}

TEST(PeerLink, EveryOpenStateCanBeFencedAndFencedIsLeftOnlyWhenForgotten) {
  for (LinkState s : kLinkStates)
    EXPECT_EQ(Next(s, LinkEvent::kFailed).has_value(), IsOpen(s)) << Name(s);
  for (LinkEvent e : kLinkEvents) {
    EXPECT_EQ(Next(kFenced, e).has_value(), e == LinkEvent::kForgotten) << Name(e);
  }
}

TEST(PeerLink, MessagesMoveOnlyAfterTheHandshake) {
  EXPECT_FALSE(CarriesMessages(kConnecting));
  for (LinkState s : kLinkStates)
    if (CarriesPages(s)) {
      EXPECT_TRUE(CarriesMessages(s)) << Name(s);
    }
}

TEST(PeerLink, SuspectRecoversOrFails) {
  EXPECT_EQ(Next(kSuspect, LinkEvent::kHeard), kUp);
  EXPECT_EQ(Next(kSuspect, LinkEvent::kFailed), kFenced);
  EXPECT_EQ(Next(kUp, LinkEvent::kHeard), std::nullopt);
}

TEST(PeerLink, RandomWalksNeverSkipTheFence) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 rng(seed);
  LinkState s = kDown;
  bool was_open = false;
  for (int step = 0; step < 100'000; ++step) {
    const auto next = Next(s, kLinkEvents[rng() % kLinkEvents.size()]);
    if (!next) continue;
    if (was_open && *next == kDown) {
      EXPECT_EQ(s, kFenced);
    }
    was_open = IsOpen(*next);
    s = *next;
  }
}

}  // namespace
}  // namespace baleen::kv_transfer
