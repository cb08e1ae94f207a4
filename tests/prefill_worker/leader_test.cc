#include "prefill_worker/leader.h"

#include <gtest/gtest.h>

#include <thread>

#include "testing/event_log.h"
#include "testing/status_matchers.h"

namespace baleen::prefill_worker {
namespace {

using baleen::testing::EventLog;
using baleen::testing::StatusIs;
using ::testing::HasSubstr;
using Kind = StageReport::Kind;

class LogSink final : public PrefillSink {
 public:
  explicit LogSink(EventLog& log) : log_(log) {}
  void Started(int cached) override { log_.Add("started " + std::to_string(cached)); }
  void HandedOff() override { log_.Add("handed off"); }
  void Finished(absl::Status status) override {
    log_.Add("finished " + absl::StatusCodeToString(status.code()));
  }

 private:
  EventLog& log_;
};

// Drives the leader as the step thread and the stages would, on the test's thread.
class LeaderTest : public ::testing::Test {
 protected:
  Leader& Make(LeaderOptions options) {
    options_ = options;
    leader_ = std::make_unique<Leader>(options, metrics_);
    start_ = leader_->load().free_pages;
    return *leader_;
  }
  static LeaderOptions Defaults() {
    return {.stages = 2, .chunk = {.rows = 128, .sequences = 4}, .pages = 32, .max_context = 4096};
  }
  static std::vector<int32_t> Prompt(int tokens, int salt = 0) {
    std::vector<int32_t> prompt(tokens);
    for (int i = 0; i < tokens; ++i) prompt[i] = i + salt;
    return prompt;
  }
  // Decode has granted it.
  absl::Status Submit(uint64_t id, int tokens, int salt = 0) {
    leader_->Granted({id});
    return SubmitUngranted(id, tokens, salt);
  }
  absl::Status SubmitUngranted(uint64_t id, int tokens, int salt = 0) {
    return leader_->Submit({.attempt = {id}, .prompt = Prompt(tokens, salt), .decode = {9}},
                           std::make_shared<LogSink>(logs_[id]));
  }
  void End(uint64_t id, absl::Status status = absl::OkStatus()) {
    for (int stage = 0; stage < options_.stages; ++stage)
      leader_->Report({.kind = Kind::kEnded, .stage = stage, .attempt = {id}, .status = status});
  }
  void Done(const BatchHeader& header) {
    leader_->Report({.kind = Kind::kBatchDone, .stage = 1, .batch = header.number});
  }
  // Batches until the prompt of `id` is scheduled.
  void Compute(uint64_t id, int tokens) {
    for (int computed = 0; computed < tokens;) {
      const auto header = leader_->NextBatch();
      for (const BatchEntry& entry : header->entries)
        if (entry.attempt.value == id) computed = entry.first + entry.rows;
      Done(*header);
    }
  }
  // Runs what is pending through the step thread's side; there must be something.
  void Settle() {
    leader_->Stop();
    EXPECT_EQ(leader_->NextBatch(), std::nullopt);
  }

  Metrics metrics_;
  LeaderOptions options_;
  std::unique_ptr<Leader> leader_;
  std::map<uint64_t, EventLog> logs_;
  int start_ = 0;
};

TEST_F(LeaderTest, AnAttemptGoesFromQueueToReleaseAndItsPagesReturn) {
  Make(Defaults());
  BALEEN_ASSERT_OK(Submit(1, 200));
  auto first = leader_->NextBatch();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->number, 1u);
  ASSERT_EQ(first->starts.size(), 1u);
  EXPECT_EQ(first->starts[0].pages.size(), 4u);
  EXPECT_EQ(first->entries, (std::vector<BatchEntry>{{{1}, 0, 128}}));
  auto second = leader_->NextBatch();
  EXPECT_TRUE(second->starts.empty());
  EXPECT_EQ(second->entries, (std::vector<BatchEntry>{{{1}, 128, 72}}));
  EXPECT_EQ(leader_->load().free_pages, start_ - 4);
  Done(*first);
  Done(*second);
  leader_->Report({.kind = Kind::kHandedOff, .attempt = {1}});
  End(1);
  Settle();
  EXPECT_EQ(logs_[1].events(),
            (std::vector<std::string>{"started 0", "handed off", "finished OK"}));
}

TEST_F(LeaderTest, PagesReturnOnlyWhenEveryStageHasEnded) {
  Make(Defaults());
  BALEEN_ASSERT_OK(Submit(1, 100));
  Compute(1, 100);
  leader_->Report({.kind = Kind::kEnded, .stage = 0, .attempt = {1}});
  BALEEN_ASSERT_OK(Submit(2, 64, 1000));
  ASSERT_TRUE(leader_->NextBatch());
  EXPECT_EQ(leader_->load().free_pages, start_ - 3);
  EXPECT_TRUE(logs_[1].events().size() == 1);
  leader_->Report({.kind = Kind::kEnded, .stage = 1, .attempt = {1}});
  Settle();
  EXPECT_EQ(logs_[1].events().back(), "finished OK");
}

TEST_F(LeaderTest, CancelOfAStartedAttemptReachesTheStagesInTheNextHeader) {
  Make(Defaults());
  BALEEN_ASSERT_OK(Submit(1, 1000));
  auto first = leader_->NextBatch();
  leader_->Cancel({1});
  auto second = leader_->NextBatch();
  ASSERT_EQ(second->aborts.size(), 1u);
  EXPECT_EQ(second->aborts[0].attempt, AttemptId{1});
  EXPECT_EQ(second->aborts[0].code, uint32_t(absl::StatusCode::kCancelled));
  EXPECT_TRUE(second->entries.empty());
  EXPECT_EQ(logs_[1].events().size(), 1u) << "pages are still in use on the stages";
  End(1, absl::CancelledError("x"));
  Settle();
  EXPECT_EQ(logs_[1].events().back(), "finished CANCELLED");
}

TEST_F(LeaderTest, CancelOfAQueuedAttemptNeverTouchesTheStages) {
  LeaderOptions options = Defaults();
  options.chunk.sequences = 1;
  Make(options);
  BALEEN_ASSERT_OK(Submit(1, 1000));
  BALEEN_ASSERT_OK(Submit(2, 10));
  auto first = leader_->NextBatch();
  EXPECT_EQ(first->starts.size(), 1u);
  leader_->Cancel({2});
  auto second = leader_->NextBatch();
  EXPECT_TRUE(second->aborts.empty());
  EXPECT_EQ(logs_[2].events(), (std::vector<std::string>{"finished CANCELLED"}));
}

TEST_F(LeaderTest, AFailureOnOneStageAbortsTheOthersAndTheFirstErrorIsReported) {
  Make(Defaults());
  BALEEN_ASSERT_OK(Submit(1, 1000));
  leader_->NextBatch();
  leader_->Report({.kind = Kind::kFailed,
                   .stage = 1,
                   .attempt = {1},
                   .status = absl::UnavailableError("link")});
  leader_->Cancel({1});
  EXPECT_EQ(leader_->NextBatch()->aborts,
            (std::vector<AttemptAbort>{{{1}, uint32_t(absl::StatusCode::kUnavailable), "link"}}));
  End(1, absl::CancelledError("aborted"));
  Settle();
  EXPECT_EQ(logs_[1].events().back(), "finished UNAVAILABLE");
}

TEST_F(LeaderTest, APromptIsFoundInThePrefixCacheOnceItsPrefillIsComplete) {
  Make(Defaults());
  BALEEN_ASSERT_OK(Submit(1, 128));
  auto header = leader_->NextBatch();
  BALEEN_ASSERT_OK(Submit(2, 128));
  auto early = leader_->NextBatch();
  EXPECT_EQ(early->starts[0].cached_tokens, 0) << "the first one is not complete yet";
  Done(*header);
  BALEEN_ASSERT_OK(Submit(3, 130));
  auto late = leader_->NextBatch();
  EXPECT_EQ(late->starts[0].cached_tokens, 128);
  EXPECT_EQ(late->entries, (std::vector<BatchEntry>{{{3}, 128, 2}}));
}

// T-G8
TEST_F(LeaderTest, PagesOfAFailedPrefillAreNotReused) {
  Make(Defaults());
  BALEEN_ASSERT_OK(Submit(1, 128));
  auto header = leader_->NextBatch();
  leader_->Report(
      {.kind = Kind::kFailed, .stage = 1, .attempt = {1}, .status = absl::InternalError("NaN")});
  Done(*header);
  leader_->NextBatch();
  End(1, absl::CancelledError("aborted"));
  BALEEN_ASSERT_OK(Submit(2, 130));
  EXPECT_EQ(leader_->NextBatch()->starts[0].cached_tokens, 0);
}

TEST_F(LeaderTest, WhatCanNeverFitIsRefusedWithTheNumbers) {
  Make(Defaults());
  EXPECT_THAT(Submit(1, 33 * 64),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("33 pages")));
  EXPECT_THAT(Submit(2, 4096), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("4096")));
}

TEST_F(LeaderTest, RefusesDuplicatesAFullQueueAndWorkWhileDraining) {
  LeaderOptions options = Defaults();
  options.max_queued = 1;
  Make(options);
  BALEEN_ASSERT_OK(Submit(1, 10));
  EXPECT_THAT(Submit(2, 10), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("queue")));
  leader_->Drain(true);
  EXPECT_THAT(Submit(3, 10), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("draining")));
  leader_->Drain(false);
}

// Nobody overtakes: the second waits for pages although the third would fit.
TEST_F(LeaderTest, WaitsForPagesInOrderOfArrival) {
  Make(Defaults());
  BALEEN_ASSERT_OK(Submit(1, 30 * 64));
  Compute(1, 30 * 64);
  BALEEN_ASSERT_OK(Submit(2, 20 * 64, 5000));
  BALEEN_ASSERT_OK(Submit(3, 64, 9000));
  leader_->Cancel({1});
  auto abort = leader_->NextBatch();
  EXPECT_TRUE(abort->starts.empty());
  End(1, absl::CancelledError("x"));
  auto next = leader_->NextBatch();
  ASSERT_EQ(next->starts.size(), 2u);
  EXPECT_EQ(next->starts[0].attempt.value, 2u);
}

TEST_F(LeaderTest, StopsAdmittingWhileTooMuchWaitsForGrants) {
  LeaderOptions options = Defaults();
  options.pages = 128;
  options.max_ungranted_tokens = 200;
  Make(options);
  BALEEN_ASSERT_OK(SubmitUngranted(1, 100));
  BALEEN_ASSERT_OK(SubmitUngranted(2, 150));
  auto first = leader_->NextBatch();
  EXPECT_EQ(first->starts.size(), 1u);
  leader_->Granted({1});
  auto second = leader_->NextBatch();
  ASSERT_EQ(second->starts.size(), 1u);
  EXPECT_EQ(second->starts[0].attempt.value, 2u);
}

// Requests in opposite order here and at decode: one that waits for its grant must not hold what a
// granted one waits for, or both would wait for each other; nor may it fail for the other's sake.
TEST_F(LeaderTest, AttemptsWithoutAGrantLeaveRoomForTheLongestPrompt) {
  LeaderOptions options = Defaults();
  options.pages = 64 + 30;
  Make(options);
  BALEEN_ASSERT_OK(SubmitUngranted(1, 20 * 64));
  BALEEN_ASSERT_OK(SubmitUngranted(2, 20 * 64, 5000));
  BALEEN_ASSERT_OK(Submit(3, 4095, 10000));
  const auto first = leader_->NextBatch();
  EXPECT_TRUE(first->aborts.empty());
  ASSERT_EQ(first->starts.size(), 2u);
  EXPECT_EQ(first->starts[0].attempt.value, 3u) << "granted";
  EXPECT_EQ(first->starts[1].attempt.value, 1u);
  leader_->Granted({1});
  Compute(1, 20 * 64);
  Compute(3, 4095);
  End(1);
  End(3);
  const auto next = leader_->NextBatch();
  ASSERT_EQ(next->starts.size(), 1u);
  EXPECT_EQ(next->starts[0].attempt.value, 2u) << "its turn came without a grant";
}

TEST_F(LeaderTest, InAPoolOfOneContextAnAttemptWaitsForItsGrant) {
  Make(Defaults());
  BALEEN_ASSERT_OK(SubmitUngranted(1, 64));
  BALEEN_ASSERT_OK(Submit(2, 64, 5000));
  const auto first = leader_->NextBatch();
  ASSERT_EQ(first->starts.size(), 1u);
  EXPECT_EQ(first->starts[0].attempt.value, 2u);
  leader_->Granted({1});
  EXPECT_EQ(leader_->NextBatch()->starts.at(0).attempt.value, 1u);
}

TEST_F(LeaderTest, GrantedAttemptsGoFirstAndNeedNoCredit) {
  LeaderOptions options = Defaults();
  options.pages = 128;
  options.max_ungranted_tokens = 200;
  Make(options);
  BALEEN_ASSERT_OK(SubmitUngranted(1, 100));
  BALEEN_ASSERT_OK(SubmitUngranted(2, 150));
  BALEEN_ASSERT_OK(Submit(3, 150));
  const auto first = leader_->NextBatch();
  ASSERT_EQ(first->starts.size(), 2u);
  EXPECT_EQ(first->starts[0].attempt.value, 3u);
  EXPECT_EQ(first->starts[1].attempt.value, 1u);
  EXPECT_EQ(leader_->load().ungranted_tokens, 100);
}

TEST_F(LeaderTest, ABrokenGroupEndsItsAttemptsWithTheCauseWhateverTheStepThreadDoes) {
  Make(Defaults());
  BALEEN_ASSERT_OK(Submit(1, 100));
  ASSERT_TRUE(leader_->NextBatch());
  BALEEN_ASSERT_OK(Submit(2, 100));
  leader_->Cancel({1});
  std::jthread waits([&] {
    EXPECT_THAT(leader_->WaitIdle(SteadyClock().Now() + std::chrono::minutes(1)),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("stage 1 vanished")));
  });
  leader_->Break(absl::UnavailableError("stage 1 vanished"));
  leader_->Break(absl::InternalError("a consequence"));
  EXPECT_EQ(logs_[1].events().back(), "finished UNAVAILABLE");
  EXPECT_EQ(logs_[2].events().back(), "finished UNAVAILABLE");
  EXPECT_THAT(Submit(3, 10), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("vanished")));
  End(1, absl::CancelledError("late"));
  EXPECT_EQ(leader_->NextBatch(), std::nullopt);
  EXPECT_EQ(logs_[1].events().size(), 2u) << "ends once";
}

TEST_F(LeaderTest, WaitIdleSaysWhatIsLeft) {
  Make(Defaults());
  BALEEN_EXPECT_OK(leader_->WaitIdle(SteadyClock().Now()));
  BALEEN_ASSERT_OK(Submit(1, 100));
  EXPECT_THAT(leader_->WaitIdle(SteadyClock().Now()),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("1 attempts")));
}

TEST_F(LeaderTest, TheOldestWorkIsKnown) {
  Make(Defaults());
  EXPECT_FALSE(leader_->OldestWork());
  const TimePoint before = SteadyClock().Now();
  BALEEN_ASSERT_OK(Submit(1, 200));
  ASSERT_TRUE(leader_->OldestWork()) << "it waits for the step thread";
  EXPECT_GE(*leader_->OldestWork(), before);
  const auto first = leader_->NextBatch();
  const auto began = leader_->OldestWork();
  ASSERT_TRUE(began);
  const auto second = leader_->NextBatch();
  EXPECT_EQ(leader_->OldestWork(), began);
  Done(*first);
  Done(*second);
  Settle();
  EXPECT_FALSE(leader_->OldestWork());
}

TEST_F(LeaderTest, AtMostStagesPlusOneBatchesAreUnderWay) {
  Make(Defaults());
  BALEEN_ASSERT_OK(Submit(1, 30 * 64));
  auto first = leader_->NextBatch();
  leader_->NextBatch();
  leader_->NextBatch();
  std::jthread later([&] { Done(*first); });
  EXPECT_EQ(leader_->NextBatch()->number, 4u);  // blocks until the first is done
}

TEST_F(LeaderTest, AFlushIsDoneOnceTheStepThreadHasEmptiedTheCache) {
  Make(Defaults());
  EXPECT_EQ(leader_->FlushCache(), 1u);
  EXPECT_EQ(leader_->FlushCache(), 2u);
  EXPECT_EQ(leader_->flushed(), 0u);
  Settle();
  EXPECT_EQ(leader_->flushed(), 2u);
}

}  // namespace
}  // namespace baleen::prefill_worker
