#include "decode_worker/request_table.h"

#include <random>

#include "decode_worker/collecting_writer.h"
#include "testing/fake_clock.h"
#include "testing/status_matchers.h"
#include "worker/handoff_payload.h"

namespace baleen::decode_worker {
namespace {

using baleen::testing::CollectingWriter;
using baleen::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int kPages = 8;

// A table whose transfer side is this test.
class RequestTableTest : public ::testing::Test {
 protected:
  static RequestTableOptions Options() {
    return {.pages = kPages,
            .max_running = 2,
            .max_waiting = 3,
            .join_pages = 3,
            .quarantine_percent = 50,
            .limits = {.drafts = 1,
                       .max_context = kPages * kPageTokens,
                       .max_head_rows = 4,
                       .vocabulary = {.limit = 100, .eos_ids = {1}}}};
  }

  KvLender Lender() {
    return {.grant = [this](auto grant) { grants_.push_back(std::move(grant)); },
            .release = [this](AttemptId a) { released_.push_back(a.value); },
            .cancel = [this](AttemptId a, const absl::Status&) { cancelled_.push_back(a.value); }};
  }

  // `pages` pages: 64 * pages - 3 tokens of prompt, two new ones and a draft's slot.
  absl::Status Submit(uint64_t attempt, int pages, int max_new_tokens = 2) {
    DecodeJob job = {.attempt = {attempt},
                     .prompt = std::vector<int32_t>(size_t(pages * kPageTokens - 3), 7),
                     .prefill = {{.name = "prefill/0"}, {.name = "prefill/1"}}};
    job.sampling.max_new_tokens = max_new_tokens;
    return table_.Submit(std::move(job), Stream(attempt).buffer());
  }
  CollectingWriter& Stream(uint64_t attempt) {
    auto& stream = streams_[attempt];
    if (!stream) stream = std::make_unique<CollectingWriter>(/*hold=*/true);
    return *stream;
  }
  static kv_transfer::HandoffRecord Handoff(int pages, uint32_t first = 5) {
    return {.first_token = first, .position = uint32_t(pages * kPageTokens - 3)};
  }
  void ExpectQuiet() {
    const auto counts = table_.counts();
    EXPECT_EQ(counts.live() + counts.quarantined, 0);
    EXPECT_EQ(counts.waiting_tokens, 0);
    EXPECT_EQ(counts.pages.free, kPages);
  }

  Metrics registry_;
  DecodeMetrics metrics_{registry_};
  baleen::testing::FakeClock clock_;
  int wakes_ = 0;
  std::vector<kv_transfer::KvReceiver::GrantRequest> grants_;
  std::vector<uint64_t> released_, cancelled_;
  std::map<uint64_t, std::unique_ptr<CollectingWriter>> streams_;
  RequestTable table_{Options(), Lender(), [this] { ++wakes_; }, metrics_, clock_};
};

TEST_F(RequestTableTest, GrantsAtOnceAndInOrderOfArrival) {
  BALEEN_ASSERT_OK(Submit(1, 3));
  BALEEN_ASSERT_OK(Submit(2, 6));
  BALEEN_ASSERT_OK(Submit(3, 1));  // would fit, but came later
  ASSERT_EQ(grants_.size(), 1u);
  EXPECT_EQ(grants_[0].attempt.value, 1u);
  EXPECT_EQ(grants_[0].pages.size(), 3u);
  EXPECT_EQ(grants_[0].stages.size(), 2u);
  EXPECT_EQ(grants_[0].prompt_hash,
            worker::PromptHash(std::vector<int32_t>(3 * kPageTokens - 3, 7)));
  EXPECT_EQ(table_.counts().waiting, 2);
  EXPECT_EQ(table_.counts().waiting_tokens, 7 * kPageTokens - 6);

  table_.Cancel({1}, absl::CancelledError("bye"));
  EXPECT_EQ(grants_.size(), 1u);  // its pages may still be written
  table_.Settled({1});
  ASSERT_EQ(grants_.size(), 3u);
  EXPECT_EQ(grants_[1].attempt.value, 2u);
  EXPECT_EQ(grants_[2].attempt.value, 3u);
}

TEST_F(RequestTableTest, LendsOnlyThePagesOfThePrompt) {
  BALEEN_ASSERT_OK(Submit(1, 1, 3 * kPageTokens));
  EXPECT_EQ(grants_.at(0).pages.size(), 1u);
  EXPECT_EQ(table_.counts().pages.request, 4);
  table_.Cancel({1}, absl::CancelledError("bye"));
  EXPECT_EQ(table_.counts().pages.quarantined, 1);  // the others had no writer
  EXPECT_EQ(table_.counts().pages.free, kPages - 1);
  table_.Settled({1});
  ExpectQuiet();
}

TEST_F(RequestTableTest, AHandOverEmitsTheFirstTokenAndWaitsForAStep) {
  BALEEN_ASSERT_OK(Submit(1, 1));
  table_.Ready({1}, Handoff(1));
  EXPECT_EQ(wakes_, 1);
  EXPECT_EQ(table_.counts().ready, 1);
  auto changes = table_.Take();
  ASSERT_EQ(changes.joined.size(), 1u);
  EXPECT_EQ(changes.joined[0]->sequence.tokens.back(), 5);
  EXPECT_EQ(changes.joined[0]->sequence.generated(), 1);
  EXPECT_THAT(released_, IsEmpty());
  table_.FirstStep(*changes.joined[0]);
  EXPECT_THAT(released_, ElementsAre(1));
  table_.Finish({1});
  EXPECT_THAT(released_, ElementsAre(1));
  Stream(1).Release();
  EXPECT_THAT(Stream(1).tokens(), ElementsAre(5));
  ExpectQuiet();
}

// T-E6
TEST_F(RequestTableTest, MaxTokensOneAndEosFirstNeedNoStep) {
  BALEEN_ASSERT_OK(Submit(1, 1, /*max_new_tokens=*/1));
  BALEEN_ASSERT_OK(Submit(2, 1));
  table_.Ready({1}, Handoff(1));
  table_.Ready({2}, Handoff(1, /*first=*/1));
  EXPECT_THAT(released_, ElementsAre(1, 2));
  EXPECT_THAT(table_.Take().joined, IsEmpty());
  for (uint64_t a : {1, 2}) {
    Stream(a).Release();
    Stream(a).Release();
    BALEEN_EXPECT_OK(Stream(a).end().value());
    EXPECT_EQ(Stream(a).finish()->new_tokens, 1);
  }
  EXPECT_EQ(Stream(1).finish()->reason, engine::FinishReason::kLength);
  EXPECT_EQ(Stream(2).finish()->reason, engine::FinishReason::kStop);
  ExpectQuiet();
}

TEST_F(RequestTableTest, RunsAtMostMaxRunningAtOnce) {
  for (uint64_t a : {1, 2, 3}) {
    BALEEN_ASSERT_OK(Submit(a, 1));
    table_.Ready({a}, Handoff(1));
  }
  EXPECT_EQ(table_.Take().joined.size(), 2u);
  EXPECT_EQ(table_.Take().joined.size(), 0u);
  table_.Finish({1});
  EXPECT_EQ(table_.Take().joined.size(), 1u);
}

TEST_F(RequestTableTest, KnowsSinceWhenARequestWaitsForAStep) {
  for (uint64_t a : {1, 2}) {
    BALEEN_ASSERT_OK(Submit(a, 1));
    clock_.Advance(std::chrono::seconds(1));
    EXPECT_EQ(table_.OldestReady().has_value(), a > 1);
    table_.Ready({a}, Handoff(1));
  }
  const TimePoint second = clock_.Now();
  EXPECT_EQ(table_.OldestReady(), second - std::chrono::seconds(1));
  table_.Cancel({1}, absl::CancelledError("the client left"));
  EXPECT_EQ(table_.OldestReady(), second);
  EXPECT_EQ(table_.Take().joined.size(), 1u);
  EXPECT_EQ(table_.OldestReady(), std::nullopt);
}

TEST_F(RequestTableTest, LongPromptsJoinOneStepAfterTheOther) {
  for (auto [attempt, pages] : {std::pair(1, 2), {2, 2}}) {
    BALEEN_ASSERT_OK(Submit(uint64_t(attempt), pages));
    table_.Ready({uint64_t(attempt)}, Handoff(pages));
  }
  EXPECT_EQ(table_.Take().joined.size(), 1u) << "four pages, three may join a step";
  EXPECT_EQ(table_.Take().joined.size(), 1u);
  table_.Finish({1});
  table_.Finish({2});
  BALEEN_ASSERT_OK(Submit(3, 4));
  table_.Ready({3}, Handoff(4));
  EXPECT_EQ(table_.Take().joined.size(), 1u) << "a prompt that has more joins alone";
}

// T-C8, T-A14: an abort in each state.
TEST_F(RequestTableTest, CancelWhileWaiting) {
  BALEEN_ASSERT_OK(Submit(1, 8));
  BALEEN_ASSERT_OK(Submit(2, 1));
  table_.Cancel({2}, absl::CancelledError("bye"));
  EXPECT_EQ(Stream(2).end()->code(), absl::StatusCode::kCancelled);
  table_.Cancel({1}, absl::CancelledError("bye"));
  table_.Settled({1});
  EXPECT_THAT(cancelled_, ElementsAre(1));
  ExpectQuiet();
}

TEST_F(RequestTableTest, CancelAfterHandOverBeforeTheStep) {
  BALEEN_ASSERT_OK(Submit(1, 1));
  table_.Ready({1}, Handoff(1));
  table_.Cancel({1}, absl::CancelledError("bye"));
  EXPECT_THAT(cancelled_, ElementsAre(1));
  ExpectQuiet();
  table_.Settled({1});  // KvReceiver's answer; late and harmless
  EXPECT_THAT(table_.Take().joined, IsEmpty());
}

TEST_F(RequestTableTest, CancelWhileRunningFreesThePagesBetweenSteps) {
  BALEEN_ASSERT_OK(Submit(1, 2));
  table_.Ready({1}, Handoff(2));
  auto running = std::move(table_.Take().joined.at(0));
  table_.Cancel({1}, absl::CancelledError("bye"));
  EXPECT_EQ(table_.counts().pages.request, 2);
  EXPECT_THAT(table_.Take().left, ElementsAre(AttemptId{1}));
  EXPECT_THAT(cancelled_, ElementsAre(1));  // no step was taken: prefill still waits
  ExpectQuiet();
}

TEST_F(RequestTableTest, AnAbortThatMeetsTheLastStepIsNoSecondEnd) {
  BALEEN_ASSERT_OK(Submit(1, 1));
  table_.Ready({1}, Handoff(1));
  auto running = std::move(table_.Take().joined.at(0));
  table_.Cancel({1}, absl::CancelledError("bye"));
  table_.Finish({1});
  BALEEN_ASSERT_OK(Submit(1, 1));  // even when the number is used again (T-A15)
  EXPECT_THAT(table_.Take().left, IsEmpty());
  EXPECT_EQ(table_.counts().granted, 1);
}

TEST_F(RequestTableTest, AFailedHandOverEndsTheStreamWithItsCause) {
  BALEEN_ASSERT_OK(Submit(1, 1));
  table_.Failed({1}, absl::UnavailableError("prefill/0: gone"));
  table_.Cancel({1}, absl::CancelledError("later"));  // T-C6: the first cause is kept
  EXPECT_THAT(cancelled_, IsEmpty());                 // KvReceiver knows
  EXPECT_EQ(table_.counts().quarantined, 1);
  Stream(1).Release();
  EXPECT_THAT(*Stream(1).end(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("prefill/0")));
  table_.Ready({1}, Handoff(1));  // T-C11: late and harmless
  table_.Settled({1});
  ExpectQuiet();
}

TEST_F(RequestTableTest, AHandOffThatDoesNotFitThePromptIsRefused) {
  BALEEN_ASSERT_OK(Submit(1, 1));
  table_.Ready({1}, {.first_token = 5, .position = 3});
  BALEEN_ASSERT_OK(Submit(2, 1));
  table_.Ready({2}, Handoff(1, /*first=*/100));
  BALEEN_ASSERT_OK(Submit(3, 1));
  auto drafts = Handoff(1);
  drafts.draft_tokens = {4, 4};  // this rank takes one
  table_.Ready({3}, drafts);
  for (uint64_t a : {1, 2, 3}) {
    Stream(a).Release();
    EXPECT_THAT(*Stream(a).end(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("hand-off")));
  }
  EXPECT_THAT(cancelled_, ElementsAre(1, 2, 3));
  ExpectQuiet();
}

TEST_F(RequestTableTest, RefusesWhatCanNeverFitAndSaysWhy) {
  EXPECT_THAT(Submit(1, 8, 100),
              StatusIs(absl::StatusCode::kOk, HasSubstr("")));  // the context ends it
  EXPECT_THAT(Submit(2, 9), StatusIs(absl::StatusCode::kInvalidArgument,
                                     AllOf(HasSubstr("573"), HasSubstr("context of 512"))));
  RequestTableOptions small = Options();
  small.pages = 2;
  RequestTable table(
      small, Lender(), [] {}, metrics_);
  CollectingWriter stream;
  DecodeJob job = {.attempt = {1}, .prompt = std::vector<int32_t>(150, 7), .prefill = {{}}};
  EXPECT_THAT(table.Submit(job, stream.buffer()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("150 prompt tokens"), HasSubstr("pool has 2"))));
  job.prompt.clear();
  EXPECT_EQ(table.Submit(job, stream.buffer()).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RequestTableTest, RefusesASecondOfTheSameAttempt) {  // T-D4
  BALEEN_ASSERT_OK(Submit(1, 1));
  EXPECT_EQ(Submit(1, 1).code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(RequestTableTest, BoundsTheQueue) {
  BALEEN_ASSERT_OK(Submit(1, 8));
  for (uint64_t a : {2, 3, 4}) BALEEN_ASSERT_OK(Submit(a, 1));
  EXPECT_EQ(Submit(5, 1).code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(RequestTableTest, TooManyPagesInQuarantineStopAdmission) {
  BALEEN_ASSERT_OK(Submit(1, 5));
  EXPECT_FALSE(table_.counts().unready);
  table_.Cancel({1}, absl::CancelledError("bye"));
  EXPECT_TRUE(table_.counts().unready);
  EXPECT_THAT(Submit(2, 1), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("5 pages")));
  table_.Settled({1});
  EXPECT_FALSE(table_.counts().unready);
  BALEEN_EXPECT_OK(Submit(2, 1));
}

TEST_F(RequestTableTest, DrainingTakesNothingNewAndTellsWhenItIsDone) {
  BALEEN_ASSERT_OK(Submit(1, 1));
  table_.SetDraining(true);
  EXPECT_EQ(Submit(2, 1).code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(table_.drained());
  const int before = wakes_;
  table_.Ready({1}, Handoff(1, /*first=*/1));
  EXPECT_TRUE(table_.drained());
  EXPECT_GT(wakes_, before);
  table_.SetDraining(false);
  BALEEN_EXPECT_OK(Submit(2, 1));
}

// Whatever happens in whatever order, every page and count comes back.
TEST_F(RequestTableTest, RandomLivesLeaveNothingBehind) {
  const unsigned seed = 4711;
  SCOPED_TRACE(seed);
  std::mt19937 rng(seed);
  std::vector<std::unique_ptr<RequestTable::Running>> running;
  uint64_t next = 1;
  std::map<uint64_t, int> sizes;
  const auto any = [&] { return 1 + rng() % next; };
  for (int event = 0; event < 20000; ++event) {
    const uint64_t a = any();
    switch (rng() % 7) {
      case 0:
        sizes[next] = 1 + int(rng() % 4);
        (void)Submit(next, sizes[next]);
        ++next;
        break;
      case 1:
        table_.Ready({a}, Handoff(sizes[a], 2 + uint32_t(rng() % 20)));
        break;
      case 2:
        table_.Failed({a}, absl::UnavailableError("x"));
        break;
      case 3:
        table_.Settled({a});
        break;
      case 4:
        table_.Cancel({a}, absl::CancelledError("x"));
        break;
      case 5: {
        auto changes = table_.Take();
        for (AttemptId left : changes.left)
          std::erase_if(running, [&](auto& r) { return r->attempt() == left; });
        for (auto& joined : changes.joined) running.push_back(std::move(joined));
        ASSERT_LE(running.size(), 2u);
        break;
      }
      case 6:
        if (running.empty()) break;
        if (rng() % 2) table_.FirstStep(*running.back());
        table_.Finish(running.back()->attempt());
        running.pop_back();
        break;
    }
    if (next > 40 && event % 100 == 0) next = 1;  // numbers come again
    const auto counts = table_.counts();
    ASSERT_EQ(counts.pages.free + counts.pages.request + counts.pages.quarantined, kPages);
  }
  table_.CancelAll(absl::UnavailableError("end"));
  table_.Take();
  for (uint64_t a = 1; a < 64; ++a) table_.Settled({a});
  ExpectQuiet();
}

}  // namespace
}  // namespace baleen::decode_worker
