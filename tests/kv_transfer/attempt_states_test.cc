// The state machines of an attempt on both sides, over all (state, event) pairs and on random
// walks.
#include <random>

#include "gtest/gtest.h"
#include "kv_transfer/grant_state.h"
#include "kv_transfer/prefill_attempt.h"

namespace baleen::kv_transfer {
namespace {

// Every legal edge; all other pairs must be refused.
template <typename State, typename Event>
struct Edge {
  State from;
  Event event;
  State to;
};

template <typename State, typename Event, size_t N>
std::optional<State> Listed(const Edge<State, Event> (&edges)[N], State from, Event event) {
  for (const auto& edge : edges)
    if (edge.from == from && edge.event == event) return edge.to;
  return std::nullopt;
}

TEST(PrefillAttempt, HasExactlyTheseEdges) {
  using enum PrefillState;
  using E = PrefillEvent;
  constexpr Edge<PrefillState, PrefillEvent> kEdges[] = {
      {kQueued, E::kScheduled, kComputing},   {kComputing, E::kLastChunk, kSending},
      {kSending, E::kAllSent, kAwaitRelease}, {kAwaitRelease, E::kReleased, kClosed},
      {kAwaitRelease, E::kPeerLost, kClosed}, {kAwaitRelease, E::kFailed, kDraining},
      {kQueued, E::kPeerLost, kDraining},     {kQueued, E::kFailed, kDraining},
      {kComputing, E::kPeerLost, kDraining},  {kComputing, E::kFailed, kDraining},
      {kSending, E::kPeerLost, kDraining},    {kSending, E::kFailed, kDraining},
      {kDraining, E::kQuiet, kClosed},
  };
  for (PrefillState s : kPrefillStates)
    for (PrefillEvent e : kPrefillEvents)
      EXPECT_EQ(Next(s, e), Listed(kEdges, s, e)) << Name(s) << " + " << int(e);
}

// Whatever still posts must pass kDraining on failure.
TEST(PrefillAttempt, NothingThatPostsIsClosedWithoutDraining) {
  for (PrefillState s : kPrefillStates)
    for (PrefillEvent e : kPrefillEvents)
      if (MayPost(s)) {
        EXPECT_NE(Next(s, e), PrefillState::kClosed) << Name(s);
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

// What each event does to the pieces and to the source pages, kept apart from the states.
TEST(PrefillAttempt, RandomWalksPostAndReadOnlyWhileTheyMay) {
  std::mt19937 rng(20240607);
  int closed = 0;
  for (int walk = 0; walk < 2000; ++walk) {
    PrefillState s = PrefillState::kQueued;
    bool posts = false, reads = true;
    for (int step = 0; step < 200; ++step) {
      const PrefillEvent event = kPrefillEvents[rng() % kPrefillEvents.size()];
      const auto next = Next(s, event);
      if (!next) continue;
      const bool handed_off = s == PrefillState::kAwaitRelease;
      s = *next;
      if (event == PrefillEvent::kScheduled)
        posts = true;
      else if (event != PrefillEvent::kLastChunk)
        posts = false;
      if (event == PrefillEvent::kReleased || event == PrefillEvent::kQuiet ||
          (event == PrefillEvent::kPeerLost && handed_off))
        reads = false;
      ASSERT_EQ(posts, MayPost(s)) << Name(s);
      ASSERT_EQ(reads, HoldsSourcePages(s)) << Name(s);
    }
    closed += s == PrefillState::kClosed;
  }
  EXPECT_EQ(closed, 2000);
}

TEST(Grant, HasExactlyTheseEdges) {
  using enum GrantState;
  using E = GrantEvent;
  constexpr Edge<GrantState, GrantEvent> kEdges[] = {
      {kGranted, E::kFirstChunk, kReceiving},     {kGranted, E::kManifestComplete, kReady},
      {kReceiving, E::kManifestComplete, kReady}, {kReady, E::kTaken, kDone},
      {kGranted, E::kFailed, kQuarantine},        {kReceiving, E::kFailed, kQuarantine},
      {kQuarantine, E::kWritersSettled, kDone},
  };
  for (GrantState s : kGrantStates)
    for (GrantEvent e : kGrantEvents)
      EXPECT_EQ(Next(s, e), Listed(kEdges, s, e)) << Name(s) << " + " << int(e);
}

// What the pool relies on: pages leave the writers' hands by one of two events, whatever happens.
TEST(Grant, RandomWalksEndWritersOnlyByTheManifestOrByBeingSettled) {
  std::mt19937 rng(20240607);
  int done = 0;
  for (int walk = 0; walk < 2000; ++walk) {
    GrantState s = GrantState::kGranted;
    bool writers = true;
    for (int step = 0; step < 200; ++step) {
      const GrantEvent event = kGrantEvents[rng() % kGrantEvents.size()];
      const auto next = Next(s, event);
      if (!next) continue;
      s = *next;
      if (event == GrantEvent::kManifestComplete || event == GrantEvent::kWritersSettled)
        writers = false;
      ASSERT_EQ(writers, WritersMayWrite(s)) << Name(s);
    }
    done += s == GrantState::kDone;
  }
  EXPECT_EQ(done, 2000);
}

}  // namespace
}  // namespace baleen::kv_transfer
