#include "router/request_state.h"

#include <random>

#include "gmock/gmock.h"

namespace baleen::router {
namespace {

using enum RequestState;

constexpr RequestState kStates[] = {kReceived, kQueued, kDispatched, kStreaming,
                                    kRetrying, kDone,   kFailed,     kCancelled};
constexpr RequestEvent kEvents[] = {
    RequestEvent::kEnqueued,   RequestEvent::kPlaced,       RequestEvent::kFirstToken,
    RequestEvent::kFinished,   RequestEvent::kStopMatched,  RequestEvent::kRetryableError,
    RequestEvent::kFatalError, RequestEvent::kQueueTimeout, RequestEvent::kClientGone};

TEST(RequestState, FinalStatesAreFinal) {
  for (RequestState s : kStates)
    for (RequestEvent e : kEvents)
      EXPECT_TRUE(!IsFinal(s) || !Next(s, e)) << int(s) << " + " << int(e);
}

TEST(RequestState, OnlyPlacedMakesAnAttempt) {
  for (RequestState s : kStates)
    for (RequestEvent e : kEvents) {
      const auto next = Next(s, e);
      const bool acquires = next && !HasAttempt(s) && HasAttempt(*next);
      EXPECT_EQ(acquires, next && e == RequestEvent::kPlaced) << int(s) << " + " << int(e);
    }
}

TEST(RequestState, NothingIsRetriedOnceATokenWasSent) {
  EXPECT_EQ(Next(kDispatched, RequestEvent::kRetryableError), kRetrying);
  EXPECT_EQ(Next(kStreaming, RequestEvent::kRetryableError), std::nullopt);
}

TEST(RequestState, TheClientMayLeaveAnyLiveState) {
  for (RequestState s : kStates)
    EXPECT_EQ(Next(s, RequestEvent::kClientGone).has_value(), !IsFinal(s)) << int(s);
}

TEST(RequestState, RandomWalksHoldAtMostOneAttempt) {
  std::mt19937 rng(20260101);
  for (int walk = 0; walk < 2000; ++walk) {
    RequestState s = kReceived;
    int attempts = 0;
    for (int step = 0; step < 100 && !IsFinal(s); ++step) {
      const RequestEvent e = kEvents[rng() % std::size(kEvents)];
      const auto next = Next(s, e);
      if (!next) continue;
      s = *next;
      if (e == RequestEvent::kPlaced)
        ++attempts;
      else if (e != RequestEvent::kFirstToken)
        attempts = 0;
      ASSERT_EQ(attempts, HasAttempt(s) ? 1 : 0) << "walk " << walk;
    }
  }
}

}  // namespace
}  // namespace baleen::router
