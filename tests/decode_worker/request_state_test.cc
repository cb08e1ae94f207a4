#include "decode_worker/request_state.h"

#include <random>

#include "gtest/gtest.h"

namespace baleen::decode_worker {
namespace {

using enum State;

// Every legal edge; all other pairs must be refused.
struct Edge {
  State from;
  Event event;
  State to;
};
constexpr Edge kEdges[] = {
    {kWaiting, Event::kRoom, kGranted},       {kGranted, Event::kManifestComplete, kReady},
    {kReady, Event::kScheduled, kRunning},    {kReady, Event::kFinished, kDone},
    {kRunning, Event::kFinished, kDone},      {kWaiting, Event::kAborted, kDone},
    {kGranted, Event::kAborted, kQuarantine}, {kReady, Event::kAborted, kDone},
    {kRunning, Event::kAborted, kDone},       {kQuarantine, Event::kSettled, kDone},
};

TEST(RequestState, HasExactlyTheseEdges) {
  for (State s : kStates) {
    for (Event e : kEvents) {
      std::optional<State> want;
      for (const Edge& edge : kEdges)
        if (edge.from == s && edge.event == e) want = edge.to;
      EXPECT_EQ(Next(s, e), want) << Name(s) << " + " << Name(e);
    }
  }
}

TEST(RequestState, OnlyRoomAcquiresPages) {
  for (State s : kStates) {
    for (Event e : kEvents) {
      const auto next = Next(s, e);
      if (!next || e == Event::kRoom) continue;
      EXPECT_LE(HoldsRequestReference(*next), HoldsRequestReference(s)) << Name(s) << Name(e);
      EXPECT_LE(HoldsWriterReference(*next), HoldsWriterReference(s)) << Name(s) << Name(e);
    }
  }
}

// R1: while a writer may still write, only its own settlement or completion drops its reference.
TEST(RequestState, AbortNeverFreesPagesUnderAWriter) {
  for (State s : kStates) {
    if (!HoldsWriterReference(s)) continue;
    const auto next = Next(s, Event::kAborted);
    EXPECT_TRUE(!next || HoldsWriterReference(*next)) << Name(s);
  }
}

TEST(RequestState, EveryStateCanBeTornDown) {
  for (State s : kStates) {
    State t = Next(s, Event::kAborted).value_or(s);
    t = Next(t, Event::kSettled).value_or(t);
    EXPECT_EQ(t, kDone) << "from " << Name(s);
  }
}

TEST(RequestState, DoneIsFinal) {
  for (Event e : kEvents) EXPECT_EQ(Next(kDone, e), std::nullopt) << Name(e);
}

// What each event does to the references, kept apart from the states.
TEST(RequestState, RandomWalksReturnEveryReference) {
  std::mt19937 rng(20240607);
  int done = 0;
  for (int walk = 0; walk < 2000; ++walk) {
    State s = kWaiting;
    bool request = false, writer = false;
    for (int step = 0; step < 200 && s != kDone; ++step) {
      const Event event = kEvents[rng() % kEvents.size()];
      const auto next = Next(s, event);
      if (!next) continue;
      s = *next;
      if (event == Event::kRoom) request = writer = true;
      if (event == Event::kFinished || event == Event::kAborted) request = false;
      if (event == Event::kManifestComplete || event == Event::kSettled) writer = false;
      ASSERT_EQ(request, HoldsRequestReference(s)) << Name(s);
      ASSERT_EQ(writer, HoldsWriterReference(s)) << Name(s);
    }
    done += s == kDone;
  }
  EXPECT_EQ(done, 2000);
}

}  // namespace
}  // namespace baleen::decode_worker
