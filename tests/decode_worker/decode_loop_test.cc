// A whole decode group in one process: table, mesh, exchange, step and transfer are the real ones,
// over loopback, with a fake model. Test ids are those of the failure catalogue (T-xx).
#include "decode_worker/decode_loop.h"

#include <random>

#include "decode_worker/decode_group.h"
#include "testing/status_matchers.h"

namespace baleen::decode_worker {
namespace {

using baleen::testing::DecodeGroup;
using baleen::testing::Eventually;
using baleen::testing::LoopbackRanks;
using baleen::testing::Solo;
using baleen::testing::StatusIs;
using ::testing::HasSubstr;

std::vector<int32_t> Prompt(int tokens, int salt = 0) {
  std::vector<int32_t> prompt;
  for (int i = 0; i < tokens; ++i) prompt.push_back(2 + (i * i + 31 * i + 7 * salt) % 90);
  return prompt;
}
model::SamplingParams Greedy(int tokens) {
  return {.max_new_tokens = tokens, .temperature = 0, .ignore_eos = true};
}
model::SamplingParams Seeded(int tokens, uint64_t seed) {
  return {.max_new_tokens = tokens, .temperature = 0.8f, .top_k = 40, .seed = seed};
}

void ExpectAsSolo(DecodeGroup::Request& r) {
  ASSERT_TRUE(r.stream->Pump());
  BALEEN_ASSERT_OK(*r.stream->end());
  const auto want = Solo(r.prompt, r.sampling);
  EXPECT_EQ(r.stream->tokens(), want.tokens) << "prompt of " << r.prompt.size();
  ASSERT_TRUE(r.stream->finish().has_value());
  EXPECT_EQ(r.stream->finish()->reason, want.finish);
  EXPECT_EQ(r.stream->finish()->new_tokens, int(want.tokens.size()));
}

class RanksAndDrafts : public ::testing::TestWithParam<std::tuple<int, int, bool>> {
 protected:
  int ranks() const { return std::get<0>(GetParam()); }
  int drafts() const { return std::get<1>(GetParam()); }
  bool overlap() const { return std::get<2>(GetParam()); }
};

// With steps one by one, and with overlap.
class DecodeLoops : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Overlap, DecodeLoops, ::testing::Bool());

TEST_P(RanksAndDrafts, EveryRequestGivesWhatItGivesAlone) {
  DecodeGroup group({.ranks = ranks(), .drafts = drafts(), .overlap = overlap()});
  std::vector<std::unique_ptr<DecodeGroup::Request>> requests;
  int salt = 0;
  for (int tokens : {1, 63, 64, 65, 130}) {
    ++salt;
    requests.push_back(group.Start(salt % ranks(), Prompt(tokens, salt), Greedy(30)));
    requests.push_back(group.Start((salt + 1) % ranks(), Prompt(tokens), Seeded(40, tokens)));
    model::SamplingParams penalised = Seeded(35, 7);  // whose steps the host must see
    penalised.frequency_penalty = 0.4f;
    if (tokens == 64) requests.push_back(group.Start(0, Prompt(tokens), penalised));
  }
  for (auto& r : requests) ExpectAsSolo(*r);
  EXPECT_EQ(group.Leftovers(), "");
}

// T-G2: no step of another shape for a request that was just handed over.
TEST_P(RanksAndDrafts, EveryStepHasTheSameRowsForEverySequence) {
  DecodeGroup group({.ranks = ranks(), .drafts = drafts(), .overlap = overlap()});
  auto r = group.Start(0, Prompt(20), Greedy(25));
  ExpectAsSolo(*r);
  for (int rank = 0; rank < ranks(); ++rank) {
    group.table(rank).SetDraining(true);
    group.loop(rank).RequestExit();
  }
  for (const absl::Status& end : group.Join()) BALEEN_EXPECT_OK(end);
  for (int rows : group.main_rows(0)) EXPECT_EQ(rows, 1 + drafts());
  for (int rank = 1; rank < ranks(); ++rank) {
    EXPECT_EQ(group.main_rows(rank).size(), group.main_rows(0).size());  // T-D6
    for (int rows : group.main_rows(rank)) EXPECT_EQ(rows, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, RanksAndDrafts,
                         ::testing::Combine(::testing::Values(1, 2, 4), ::testing::Values(0, 1, 3),
                                            ::testing::Bool()));

// T-E6
TEST_P(DecodeLoops, MaxTokensOneAndAStopTokenFirst) {
  DecodeGroup group({.ranks = 2, .overlap = GetParam()});
  auto one = group.Start(0, Prompt(10), Greedy(1));
  ExpectAsSolo(*one);
  model::SamplingParams stop = Greedy(50);
  stop.stop_token_ids = {Solo(Prompt(10), Greedy(1)).tokens.at(0)};
  auto stopped = group.Start(1, Prompt(10), stop);
  ExpectAsSolo(*stopped);
  EXPECT_EQ(stopped->stream->finish()->new_tokens, 1);
  EXPECT_EQ(stopped->stream->finish()->reason, engine::FinishReason::kStop);
  auto two = group.Start(1, Prompt(10), Greedy(2));
  ExpectAsSolo(*two);
  EXPECT_EQ(group.Leftovers(), "");
}

TEST_P(DecodeLoops, LogprobsComeWithEveryToken) {
  DecodeGroup group({.overlap = GetParam()});
  model::SamplingParams sampling = Greedy(12);
  sampling.top_logprobs = 3;
  auto r = group.Start(0, Prompt(30), sampling);
  ExpectAsSolo(*r);
  const auto want = Solo(r->prompt, sampling).logprobs;
  const auto got = r->stream->logprobs();
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].token, want[i].token);
    EXPECT_EQ(got[i].top_tokens, want[i].top_tokens);
  }
}

// T-C8 and T-A5: leaving at every place of the way.
TEST_P(DecodeLoops, CancelInEachStateLeavesNothingBehind) {
  DecodeGroup group({.ranks = 2, .pages = 20, .overlap = GetParam()});
  auto granted = group.Submit(0, Prompt(600), Greedy(300));  // 15 of 20 pages
  auto waiting = group.Submit(0, Prompt(600, 1), Greedy(300));
  EXPECT_EQ(group.table(0).counts().granted, 1);
  EXPECT_EQ(group.table(0).counts().waiting, 1);
  group.Cancel(*waiting);
  group.Cancel(*granted);
  EXPECT_EQ(group.Leftovers(), "");

  auto running = group.Start(0, Prompt(40), Greedy(900));
  ASSERT_TRUE(running->stream->Pump(5));
  group.Cancel(*running);
  ASSERT_TRUE(running->stream->Pump());
  EXPECT_EQ(running->stream->end()->code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(group.Leftovers(), "");
  auto after = group.Start(0, Prompt(600, 2), Greedy(100));
  ExpectAsSolo(*after);
}

TEST_P(DecodeLoops, APrefillThatGivesUpEndsTheStreamWithItsCause) {
  DecodeGroup group({.overlap = GetParam()});
  auto r = group.Submit(0, Prompt(100), Greedy(10));
  group.prefill().Abort(r->attempt, absl::ResourceExhaustedError("no pages for it"));
  ASSERT_TRUE(r->stream->Pump());
  EXPECT_THAT(*r->stream->end(),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("no pages for it")));
  EXPECT_EQ(group.Leftovers(), "");
}

// T-B1: prefill's link breaks; the attempts that wait for it fail, the running ones go on.
TEST_P(DecodeLoops, ALostPrefillFailsOnlyWhatWaitsForIt) {
  DecodeGroup group({.overlap = GetParam()});
  auto running = group.Start(0, Prompt(100), Greedy(600));
  auto granted = group.Submit(0, Prompt(100, 1), Greedy(10));
  ASSERT_TRUE(running->stream->Pump(2));
  group.ranks().hub().Break("prefill/0", LoopbackRanks::Name(0));
  ASSERT_TRUE(granted->stream->Pump());
  EXPECT_EQ(granted->stream->end()->code(), absl::StatusCode::kUnavailable);
  ExpectAsSolo(*running);
  EXPECT_TRUE(Eventually([&] { return group.table(0).counts().quarantined == 0; }));
}

TEST_P(DecodeLoops, MoreThanFitsWaitsItsTurn) {
  DecodeGroup group({.ranks = 1, .pages = 12, .max_running = 2, .overlap = GetParam()});
  std::vector<std::unique_ptr<DecodeGroup::Request>> requests;
  for (int i = 0; i < 10; ++i)
    requests.push_back(group.Start(0, Prompt(100 + i, i), Seeded(60, uint64_t(i))));
  for (auto& r : requests) ExpectAsSolo(*r);
  EXPECT_EQ(group.Leftovers(), "");
}

// T-C2, T-D1 in small: a storm with random cancels on several ranks, three rounds over one group.
TEST_P(DecodeLoops, StormWithRandomCancelsEndsQuiet) {
  const unsigned seed = 97;
  SCOPED_TRACE(seed);
  std::mt19937 rng(seed);
  DecodeGroup group({.ranks = 2, .pages = 96, .max_running = 8, .overlap = GetParam()});
  for (int round = 0; round < 3; ++round) {
    std::vector<std::unique_ptr<DecodeGroup::Request>> requests;
    std::vector<bool> cancelled;
    for (int i = 0; i < 64; ++i) {
      auto r = group.Submit(int(rng() % 2), Prompt(1 + int(rng() % 300), i),
                            Seeded(1 + int(rng() % 60), rng()));
      const unsigned fate = rng() % 6;
      if (fate == 0) group.Cancel(*r);
      if (fate != 1) group.Serve(*r);
      if (fate <= 1) group.Cancel(*r);  // before, or instead of, prefill's end
      if (fate == 2 && i > 8) group.Cancel(*requests[rng() % requests.size()]);
      requests.push_back(std::move(r));
    }
    int finished = 0;
    for (auto& r : requests) {
      ASSERT_TRUE(r->stream->Pump());
      if (!r->stream->end()->ok()) {
        EXPECT_EQ(r->stream->end()->code(), absl::StatusCode::kCancelled);
        continue;
      }
      ++finished;
      ExpectAsSolo(*r);
    }
    EXPECT_GT(finished, 20);
    ASSERT_EQ(group.Leftovers(), "");
  }
}

TEST_P(DecodeLoops, DrainFinishesWhatRunsThenAllRanksLeaveTogether) {
  DecodeGroup group({.ranks = 4, .overlap = GetParam()});
  auto r = group.Start(2, Prompt(50), Greedy(120));
  ASSERT_TRUE(r->stream->Pump(2));
  group.loop(1).RequestExit();  // one process got SIGTERM; the group tells all to drain
  for (int rank = 0; rank < 4; ++rank) group.table(rank).SetDraining(true);
  ExpectAsSolo(*r);
  for (const absl::Status& end : group.Join()) BALEEN_EXPECT_OK(end);
  for (int rank = 0; rank < 4; ++rank) BALEEN_EXPECT_OK(group.ranks().rank(rank).broken);
}

TEST_P(DecodeLoops, ADrainThatIsTakenBackGoesOn) {
  DecodeGroup group({.ranks = 2, .overlap = GetParam()});
  for (bool draining : {true, false})
    for (int rank = 0; rank < 2; ++rank) group.table(rank).SetDraining(draining);
  auto r = group.Start(1, Prompt(50), Greedy(20));
  ExpectAsSolo(*r);
}

// Rank of group dies: everything of the group fails, with the rank's name; nobody hangs.
TEST_P(DecodeLoops, AVanishedRankEndsTheGroupAndItsStreams) {
  DecodeGroup group({.ranks = 2, .overlap = GetParam()});
  auto running = group.Start(0, Prompt(50), Greedy(900));
  auto granted = group.Submit(0, Prompt(50), Greedy(900));
  ASSERT_TRUE(running->stream->Pump(3));
  group.ranks().hub().Break(LoopbackRanks::Name(0), LoopbackRanks::Name(1));
  for (const absl::Status& end : group.Join())
    EXPECT_THAT(end, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("decode rank")));
  for (auto* r : {running.get(), granted.get()}) {
    ASSERT_TRUE(r->stream->Pump());
    EXPECT_EQ(r->stream->end()->code(), absl::StatusCode::kUnavailable);
  }
  auto late = std::make_unique<baleen::testing::CollectingWriter>();
  EXPECT_EQ(group.table(0)
                .Submit({.attempt = {77}, .prompt = {5}, .prefill = {group.prefill().address()}},
                        late->buffer())
                .code(),
            absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace baleen::decode_worker
