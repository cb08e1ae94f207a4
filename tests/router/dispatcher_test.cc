#include "router/dispatcher.h"

#include "gmock/gmock.h"
#include "proto/sampling.pb.h"
#include "router/directory_fixture.h"
#include "testing/fake_clock.h"
#include "testing/fake_worker_clients.h"
#include "testing/status_matchers.h"

namespace baleen::router {
namespace {

using baleen::testing::FakeClock;
using baleen::testing::FakeWorkerClients;
using baleen::testing::IsOk;
using baleen::testing::StatusIs;
using ::testing::_;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class RecordingSink final : public GenerationSink {
 public:
  void OnTokens(TokenStep step) override {
    tokens.insert(tokens.end(), step.tokens.begin(), step.tokens.end());
  }
  void OnFinished(const FinishInfo&) override { ++finished; }
  void OnError(absl::Status status) override { errors.push_back(std::move(status)); }
  bool quiet() const { return tokens.empty() && finished == 0 && errors.empty(); }

  std::vector<uint32_t> tokens;
  int finished = 0;
  std::vector<absl::Status> errors;
};

class DispatcherTest : public ::testing::Test {
 protected:
  void AddPair(int n) {
    prefill_.push_back(AddReady(directory_, WorkerRole::kPrefill, absl::StrCat("p", n), 10 + n));
    decode_.push_back(AddReady(directory_, WorkerRole::kDecode, absl::StrCat("d", n), 20 + n));
  }
  absl::StatusOr<std::shared_ptr<RequestHandle>> Submit(int prompt_tokens = 3) {
    return dispatcher_.Submit({.prompt = std::make_shared<std::vector<uint32_t>>(prompt_tokens, 7u),
                               .sampling = std::make_shared<v1::SamplingParams>(),
                               .max_new_tokens = 10,
                               .received = clock_.Now()},
                              sink_);
  }
  FakeWorkerClients::Call& P(size_t i = 0) { return clients_.prefills.at(i); }
  FakeWorkerClients::Call& D(size_t i = 0) { return clients_.decodes.at(i); }
  void EmitToken(FakeWorkerClients::Call& call, uint32_t token) {
    call.decode->OnTokens(call.id(), {.tokens = {token}});
  }
  // Nothing assigned, queued or live.
  void ExpectQuiet() {
    const auto view = directory_.View();
    for (const auto* groups : {&view->prefill, &view->decode})
      for (const GroupView& g : *groups)
        for (const Assigned& a : g.assigned) {
          EXPECT_EQ(a.requests, 0) << g.identity->name;
          EXPECT_EQ(a.tokens, 0) << g.identity->name;
        }
    EXPECT_EQ(dispatcher_.live(), 0);
    EXPECT_EQ(metrics_.attempts.Value(), 0);
    EXPECT_EQ(metrics_.queue_length.Value(), 0);
  }

  FakeClock clock_;
  Metrics registry_;
  RouterMetrics metrics_{registry_};
  WorkerDirectory directory_{{}, {}, clock_};
  FakeWorkerClients clients_;
  Dispatcher dispatcher_{{.max_queued = 2}, directory_, clients_, clock_, metrics_};
  std::shared_ptr<RecordingSink> sink_ = std::make_shared<RecordingSink>();
  std::vector<GroupId> prefill_, decode_;
};

TEST_F(DispatcherTest, StartsBothLegsOfOneAttemptAndStreamsTokens) {
  AddPair(0);
  ASSERT_THAT(Submit(), IsOk());
  ASSERT_TRUE(P().leg->started && D().leg->started);
  EXPECT_EQ(P().id(), D().id());
  EXPECT_EQ(P().input.sampling, D().input.sampling);
  D().decode->OnGranted(D().id());
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

TEST_F(DispatcherTest, PrefillsTokensAreUncountedAtTheHandOver) {
  AddPair(0);
  ASSERT_THAT(Submit(100), IsOk());
  EXPECT_EQ(directory_.View()->prefill[0].assigned[0].tokens, 100);
  EXPECT_EQ(directory_.View()->decode[0].assigned[0].tokens, 110);
  P().prefill->OnHandedOff(P().id());
  EXPECT_EQ(directory_.View()->prefill[0].assigned[0].tokens, 0);
  EXPECT_EQ(directory_.View()->decode[0].assigned[0].tokens, 110);
}

TEST_F(DispatcherTest, CancellingAbortsBothLegs) {
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

TEST_F(DispatcherTest, EitherLegFailingCancelsTheOtherAtOnce) {
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

TEST_F(DispatcherTest, AnUnavailableWorkerIsRetriedOnAnotherPairWithANewAttempt) {
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

TEST_F(DispatcherTest, TheSecondFailureIsFinal) {
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

TEST_F(DispatcherTest, WithoutAnotherPairTheFirstCauseIsReported) {
  AddPair(0);
  ASSERT_THAT(Submit(), IsOk());
  D().decode->OnDecodeDone(D().id(), absl::UnavailableError("gone"));
  P().prefill->OnPrefillDone(P().id(), absl::CancelledError("by us"));
  ASSERT_EQ(sink_->errors.size(), 1u);
  EXPECT_THAT(sink_->errors[0], StatusIs(absl::StatusCode::kUnavailable, HasSubstr("d0: gone")));
  ExpectQuiet();
}

TEST_F(DispatcherTest, BadRequestsAndLateFailuresAreNotRetried) {
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

TEST_F(DispatcherTest, PrefillDyingAfterTheHandOverIsInvisible) {
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

TEST_F(DispatcherTest, AStreamThatEndsWithoutAFinishIsAnError) {
  AddPair(0);
  ASSERT_THAT(Submit(), IsOk());
  EmitToken(D(), 5);
  D().decode->OnDecodeDone(D().id(), absl::OkStatus());
  EXPECT_THAT(sink_->errors,
              ElementsAre(StatusIs(absl::StatusCode::kAborted, HasSubstr("without a finish"))));
}

TEST_F(DispatcherTest, WaitsForAPairAndServesInOrder) {
  ASSERT_THAT(Submit(1), IsOk());
  ASSERT_THAT(Submit(2), IsOk());
  EXPECT_TRUE(clients_.decodes.empty());
  EXPECT_EQ(metrics_.queue_length.Value(), 2);
  EXPECT_THAT(Submit(3), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("full")));
  AddPair(0);
  ASSERT_EQ(clients_.decodes.size(), 2u);
  EXPECT_EQ(D(0).input.prompt->size(), 1u);
  EXPECT_EQ(D(1).input.prompt->size(), 2u);
  EXPECT_EQ(metrics_.queue_length.Value(), 0);
}

TEST_F(DispatcherTest, AQueuedRequestTimesOutWithUnavailable) {
  ASSERT_THAT(Submit(), IsOk());
  clock_.Advance(std::chrono::milliseconds(29999));
  dispatcher_.Tick();
  EXPECT_TRUE(sink_->quiet());
  clock_.Advance(std::chrono::milliseconds(1));
  dispatcher_.Tick();
  EXPECT_THAT(sink_->errors, ElementsAre(StatusIs(absl::StatusCode::kUnavailable, _)));
  ExpectQuiet();
}

TEST_F(DispatcherTest, AClientThatLeavesTheQueueMakesRoom) {
  const auto handle = Submit();
  ASSERT_THAT(handle, IsOk());
  (*handle)->Cancel(CancelReason::kClientGone);
  ExpectQuiet();
  AddPair(0);
  EXPECT_TRUE(clients_.decodes.empty());
}

TEST_F(DispatcherTest, ADeadGroupFailsWhatRunsOnIt) {
  AddPair(0);
  ASSERT_THAT(Submit(), IsOk());
  EmitToken(D(), 1);
  clock_.Advance(std::chrono::seconds(6));
  directory_.Tick();
  EXPECT_THAT(sink_->errors,
              ElementsAre(StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no report"))));
  EXPECT_EQ(D().leg->cancels, 1);
  EXPECT_EQ(dispatcher_.live(), 0);
}

TEST_F(DispatcherTest, FailAllEndsEverything) {
  AddPair(0);
  ASSERT_THAT(Submit(), IsOk());
  dispatcher_.FailAll("the router is shutting down");
  EXPECT_THAT(sink_->errors, ElementsAre(StatusIs(absl::StatusCode::kUnavailable, _)));
  EXPECT_EQ(P().leg->cancels, 1);
  ExpectQuiet();
}

}  // namespace
}  // namespace baleen::router
