#include "router/flight.h"

#include "gmock/gmock.h"
#include "router/dispatcher_fixture.h"
#include "testing/status_matchers.h"

namespace baleen::router {
namespace {

using baleen::testing::IsOk;
using baleen::testing::StatusIs;
using ::testing::_;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FlightTest : public DispatcherFixture {};

TEST_F(FlightTest, StartsBothLegsOfOneAttemptAndStreamsTokens) {
  AddPair(0);
  ASSERT_THAT(Submit(), IsOk());
  ASSERT_TRUE(P().leg->started && D().leg->started);
  EXPECT_EQ(P().id(), D().id());
  EXPECT_EQ(P().input.sampling, D().input.sampling);
  EmitToken(D(), 5);
  P().prefill->OnHandedOff(P().id());
  P().prefill->OnPrefillDone(P().id(), absl::OkStatus());
  EmitToken(D(), 6);
  D().decode->OnFinished(D().id(), {});
  D().decode->OnDecodeDone(D().id(), absl::OkStatus());
  EXPECT_THAT(sink_->tokens, ElementsAre(5, 6));
  EXPECT_EQ(sink_->finished, 1);
  EXPECT_TRUE(sink_->errors.empty());
  EXPECT_EQ(P().leg->cancels + D().leg->cancels, 0);
  ExpectQuiet();
}

TEST_F(FlightTest, WhatPrefillHadCachedComesWithTheTokens) {
  AddPair(0);
  ASSERT_THAT(Submit(), IsOk());
  P().prefill->OnPrefillStarted(AttemptId{1}, 7);  // of another attempt
  EmitToken(D(), 5);
  EXPECT_EQ(sink_->cached_tokens, 0);
  P().prefill->OnPrefillStarted(P().id(), 64);
  EmitToken(D(), 6);
  EXPECT_EQ(sink_->cached_tokens, 64);
}

TEST_F(FlightTest, PrefillsTokensAreUncountedAtTheHandOver) {
  AddPair(0);
  ASSERT_THAT(Submit(100), IsOk());
  EXPECT_EQ(directory_.View()->prefill[0].assigned[0].tokens, 100);
  EXPECT_EQ(directory_.View()->decode[0].assigned[0].tokens, 110);
  P().prefill->OnHandedOff(P().id());
  EXPECT_EQ(directory_.View()->prefill[0].assigned[0].tokens, 0);
  EXPECT_EQ(directory_.View()->decode[0].assigned[0].tokens, 110);
}

TEST_F(FlightTest, CancellingAbortsBothLegs) {
  AddPair(0);
  const auto handle = Submit();
  ASSERT_THAT(handle, IsOk());
  EmitToken(D(), 5);
  (*handle)->Cancel(CancelReason::kClientGone);
  EXPECT_EQ(P().leg->cancels, 1);
  EXPECT_EQ(D().leg->cancels, 1);
  ExpectQuiet();
  // What the workers still say is ignored, and counted.
  EmitToken(D(), 6);
  D().decode->OnDecodeDone(D().id(), absl::CancelledError(""));
  P().prefill->OnPrefillDone(P().id(), absl::CancelledError(""));
  EXPECT_THAT(sink_->tokens, ElementsAre(5));
  EXPECT_TRUE(sink_->errors.empty());
  EXPECT_EQ(metrics_.late_events.Value(), 1);
  EXPECT_EQ(metrics_.client_gone.Value(), 1);
}

TEST_F(FlightTest, EitherLegFailingCancelsTheOtherAtOnce) {
  for (const bool prefill_fails : {true, false}) {
    SCOPED_TRACE(prefill_fails);
    if (prefill_.empty()) AddPair(0);
    clients_.prefills.clear();
    clients_.decodes.clear();
    sink_ = std::make_shared<RecordingSink>();
    ASSERT_THAT(Submit(), IsOk());
    if (prefill_fails)
      P().prefill->OnPrefillDone(P().id(), absl::InternalError("out of pages"));
    else
      D().decode->OnDecodeDone(D().id(), absl::InternalError("out of pages"));
    EXPECT_EQ((prefill_fails ? D() : P()).leg->cancels, 1);
    ASSERT_EQ(sink_->errors.size(), 1u);
    EXPECT_THAT(sink_->errors[0],
                StatusIs(absl::StatusCode::kInternal,
                         HasSubstr(prefill_fails ? "prefill worker p0: out of pages"
                                                 : "decode worker d0: out of pages")));
    ExpectQuiet();
  }
}

TEST_F(FlightTest, AnUnavailableWorkerIsRetriedOnAnotherPairWithANewAttempt) {
  AddPair(0);
  AddPair(1);
  ASSERT_THAT(Submit(), IsOk());
  const std::string first = P().address;
  P().prefill->OnPrefillDone(P().id(), absl::UnavailableError("connection refused"));
  ASSERT_EQ(clients_.prefills.size(), 2u);
  EXPECT_NE(P(1).address, first);
  EXPECT_NE(P(1).id(), P(0).id());
  EXPECT_EQ(*P(1).input.prompt, *P(0).input.prompt);  // the second try carries the whole prompt
  EXPECT_EQ(D(0).leg->cancels, 1);
  EXPECT_TRUE(sink_->quiet());
  EmitToken(D(0), 99);  // of the old attempt
  EmitToken(D(1), 5);
  D(1).decode->OnFinished(D(1).id(), {});
  EXPECT_THAT(sink_->tokens, ElementsAre(5));
  EXPECT_EQ(sink_->finished, 1);
  EXPECT_EQ(metrics_.retries.Value(), 1);
  ExpectQuiet();
}

TEST_F(FlightTest, TheSecondFailureIsFinal) {
  AddPair(0);
  AddPair(1);
  AddPair(2);
  ASSERT_THAT(Submit(), IsOk());
  D(0).decode->OnDecodeDone(D(0).id(), absl::UnavailableError("gone"));
  D(1).decode->OnDecodeDone(D(1).id(), absl::UnavailableError("gone too"));
  EXPECT_EQ(clients_.decodes.size(), 2u);
  ASSERT_EQ(sink_->errors.size(), 1u);
  EXPECT_THAT(sink_->errors[0], StatusIs(absl::StatusCode::kUnavailable, HasSubstr("gone too")));
  ExpectQuiet();
}

TEST_F(FlightTest, WithoutAnotherPairTheFirstCauseIsReported) {
  AddPair(0);
  ASSERT_THAT(Submit(), IsOk());
  D().decode->OnDecodeDone(D().id(), absl::UnavailableError("gone"));
  P().prefill->OnPrefillDone(P().id(), absl::CancelledError("by us"));
  ASSERT_EQ(sink_->errors.size(), 1u);
  EXPECT_THAT(sink_->errors[0], StatusIs(absl::StatusCode::kUnavailable, HasSubstr("d0: gone")));
  ExpectQuiet();
}

TEST_F(FlightTest, BadRequestsAndLateFailuresAreNotRetried) {
  AddPair(0);
  AddPair(1);
  ASSERT_THAT(Submit(), IsOk());
  P().prefill->OnPrefillDone(P().id(), absl::InvalidArgumentError("prompt too long"));
  EXPECT_EQ(clients_.prefills.size(), 1u);
  EXPECT_THAT(sink_->errors, ElementsAre(StatusIs(absl::StatusCode::kInvalidArgument, _)));

  sink_ = std::make_shared<RecordingSink>();
  ASSERT_THAT(Submit(), IsOk());
  EmitToken(D(1), 5);
  D(1).decode->OnDecodeDone(D(1).id(), absl::UnavailableError("died mid-stream"));
  EXPECT_EQ(clients_.prefills.size(), 2u);
  EXPECT_THAT(sink_->errors, ElementsAre(StatusIs(absl::StatusCode::kUnavailable, _)));
  ExpectQuiet();
}

TEST_F(FlightTest, PrefillDyingAfterTheHandOverIsInvisible) {
  AddPair(0);
  ASSERT_THAT(Submit(), IsOk());
  P().prefill->OnHandedOff(P().id());
  P().prefill->OnPrefillDone(P().id(), absl::UnavailableError("killed"));
  directory_.Disconnect(prefill_[0], "killed");
  EmitToken(D(), 5);
  D().decode->OnFinished(D().id(), {});
  EXPECT_THAT(sink_->tokens, ElementsAre(5));
  EXPECT_EQ(sink_->finished, 1);
  ExpectQuiet();
}

// The link between the workers was refused: not the request's fault, and another pair may do.
TEST_F(FlightTest, WhatIsWrongBetweenTheWorkersIsTriedOnAnotherPair) {
  AddPair(0);
  AddPair(1);
  ASSERT_THAT(Submit(), IsOk());
  for (size_t i : {0, 1})
    D(i).decode->OnDecodeDone(D(i).id(), absl::FailedPreconditionError("require_transport: rc"));
  EXPECT_THAT(sink_->errors, ElementsAre(StatusIs(absl::StatusCode::kUnavailable,
                                                  HasSubstr("require_transport: rc"))));
}

TEST_F(FlightTest, OnlyAnInvalidArgumentIsTheClientsFault) {
  AddPair(0);
  using Code = absl::StatusCode;
  for (Code code : {Code::kOutOfRange, Code::kNotFound, Code::kAlreadyExists,
                    Code::kPermissionDenied, Code::kUnauthenticated, Code::kInternal}) {
    ASSERT_THAT(Submit(), IsOk());
    clients_.decodes.back().decode->OnDecodeDone(clients_.decodes.back().id(),
                                                 absl::Status(code, "why"));
    EXPECT_EQ(sink_->errors.back().code(), Code::kInternal);
  }
  ASSERT_THAT(Submit(), IsOk());
  clients_.decodes.back().decode->OnDecodeDone(clients_.decodes.back().id(),
                                               absl::InvalidArgumentError("why"));
  EXPECT_EQ(sink_->errors.back().code(), Code::kInvalidArgument);
}

TEST_F(FlightTest, AStreamThatEndsWithoutAFinishIsAnError) {
  AddPair(0);
  ASSERT_THAT(Submit(), IsOk());
  EmitToken(D(), 5);
  D().decode->OnDecodeDone(D().id(), absl::OkStatus());
  EXPECT_THAT(sink_->errors,
              ElementsAre(StatusIs(absl::StatusCode::kAborted, HasSubstr("without a finish"))));
}

}  // namespace
}  // namespace baleen::router
