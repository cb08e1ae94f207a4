#include "engine/decode_step.h"

#include <cstring>
#include <deque>
#include <memory>
#include <thread>

#include "engine/local_engine.h"
#include "engine/memory_plan.h"
#include "gmock/gmock.h"
#include "tests/testing/fake_pool.h"
#include "tests/testing/lockstep_exchange.h"

namespace baleen::engine {
namespace {

using ::baleen::testing::FakeForward;
using ::baleen::testing::FakeHost;
using ::baleen::testing::LockstepGroup;
using ::testing::Each;
using ::testing::SizeIs;

constexpr int kContext = 1024;
constexpr int kPages = 40;

std::vector<int32_t> Prompt(int tokens, int salt = 0) {
  std::vector<int32_t> prompt;
  for (int i = 0; i < tokens; ++i) prompt.push_back(2 + (i * i + 31 * i + 7 * salt) % 90);
  return prompt;
}

model::SamplingParams Sampling(int tokens, int seed) {
  return {
      .max_new_tokens = tokens, .temperature = 0.7f, .seed = uint64_t(seed), .ignore_eos = true};
}

DecodeLimits Limits(int drafts) {
  return {.max_sequences = 8,
          .drafts = drafts,
          .max_context = kContext,
          .max_head_rows = 4,
          .vocabulary = FakeForward::Vocabulary()};
}

std::vector<int32_t> Solo(const std::vector<int32_t>& prompt, const model::SamplingParams& params) {
  FakeHost host(FakeForward::Whole(false), kPages);
  LocalEngine engine(host.forward, {.shard = FakeForward::Whole(false),
                                    .pages = kPages,
                                    .max_head_rows = 4,
                                    .max_context = kContext,
                                    .vocabulary = FakeForward::Vocabulary()});
  return engine.Generate(prompt, params).tokens;
}

// Prefills on a host of its own and copies the prompt's pages, as a hand-over does.
DecodeSequence HandOver(const std::vector<int32_t>& prompt, const model::SamplingParams& params,
                        FakeHost& to, int first_page, int prefill_drafts,
                        const DecodeLimits& limits) {
  const model::Shard shard = FakeForward::Whole(true);
  FakeHost from(shard, kPages);
  PrefillStep step(from.forward, {.shard = shard,
                                  .drafts = prefill_drafts,
                                  .max_rows = kContext,
                                  .max_head_rows = 4,
                                  .max_context = kContext,
                                  .vocabulary = FakeForward::Vocabulary()});
  PrefillChunk chunk{.tokens = prompt, .last = true, .sampling = params};
  for (int i = 0; i < PrefillPages(prompt.size(), 3, kContext); ++i) {
    chunk.pages.push_back(PageId{kPages - 1 - i});
  }
  const std::vector<PrefillResult> results = step.Run({&chunk, 1});
  std::vector<PageId> pages;
  for (int i = 0; i < DecodePages(prompt.size(), params.max_new_tokens, limits.drafts, kContext);
       ++i) {
    pages.push_back(PageId{first_page + i});
    if (i >= PagesFor(prompt.size())) continue;
    const size_t bytes = from.layout.PageBytes();
    std::memcpy(&to.memory[pages[i].value * bytes], &from.memory[chunk.pages[i].value * bytes],
                bytes);
  }
  return StartSequence(1, prompt, params, pages, results[0].first_token, results[0].drafts, limits);
}

std::vector<int32_t> Generated(const DecodeSequence& s) {
  return {s.tokens.begin() + s.prompt_tokens, s.tokens.end()};
}

// Steps until all sequences end.
void Finish(DecodeStep& step, std::vector<DecodeSequence>& sequences) {
  for (;;) {
    std::vector<DecodeSequence*> running;
    for (auto& s : sequences) {
      if (s.finish == FinishReason::kNone) running.push_back(&s);
    }
    if (running.empty()) return;
    for (const StepOutput& output : step.Run(running)) ASSERT_TRUE(output.status.ok());
  }
}

TEST(DecodeStep, HandedOverPagesContinueExactly) {
  for (int drafts : {1, 2, 3}) {
    for (int length : {1, 63, 64, 65, 127, 128, 129}) {
      FakeHost host(FakeForward::Whole(true), kPages);
      DecodeStep step(host.forward, Limits(drafts));
      std::vector<DecodeSequence> sequences;
      sequences.push_back(
          HandOver(Prompt(length), Sampling(50, 3), host, 2, drafts, step.limits()));
      EXPECT_THAT(sequences[0].drafts, SizeIs(drafts));
      Finish(step, sequences);
      EXPECT_EQ(Generated(sequences[0]), Solo(Prompt(length), Sampling(50, 3))) << length;
    }
  }
}

TEST(DecodeStep, AWrongPageIsNoticed) {
  FakeHost host(FakeForward::Whole(true), kPages);
  DecodeStep step(host.forward, Limits(1));
  std::vector<DecodeSequence> sequences;
  sequences.push_back(HandOver(Prompt(200), Sampling(50, 3), host, 2, 1, step.limits()));
  std::swap(sequences[0].pages[0], sequences[0].pages[1]);
  Finish(step, sequences);
  EXPECT_NE(Generated(sequences[0]), Solo(Prompt(200), Sampling(50, 3)));
}

// T-G2 and T-G3: whatever prefill drafted, every step has 1 + k rows a sequence and the same runs.
TEST(DecodeStep, EveryStepHasTheSameShape) {
  for (int prefill_drafts : {0, 1, 3}) {
    FakeHost host(FakeForward::Whole(true), kPages);
    DecodeStep step(host.forward, Limits(2));
    std::vector<DecodeSequence> sequences;
    sequences.push_back(
        HandOver(Prompt(70), Sampling(40, 5), host, 0, prefill_drafts, step.limits()));
    Finish(step, sequences);
    EXPECT_THAT(host.forward.main_rows, Each(3));
    EXPECT_EQ(host.forward.mtp_runs, 2 * host.forward.main_runs);
    EXPECT_EQ(sequences[0].steps, host.forward.main_runs);
    EXPECT_EQ(sequences[0].accepted_drafts + sequences[0].steps, 39);
    EXPECT_EQ(Generated(sequences[0]), Solo(Prompt(70), Sampling(40, 5)));
  }
}

TEST(DecodeStep, AnIdleStepMakesTheSameRuns) {
  for (int drafts : {0, 1, 3}) {
    FakeHost host(FakeForward::Whole(true), 1);
    DecodeStep step(host.forward, Limits(drafts));
    EXPECT_TRUE(step.Run({}).empty());
    EXPECT_EQ(host.forward.main_runs, 1);
    EXPECT_EQ(host.forward.mtp_runs, drafts);
  }
}

// Always a step ahead of what the host has seen. Sequences end at different steps, by length and by
// a stop token, and one joins in the middle; its neighbours follow themselves in other places.
TEST(DecodeStep, StepsAheadOfTheHostGiveTheSame) {
  for (int drafts : {0, 1, 3}) {
    FakeHost host(FakeForward::Whole(true), kPages);
    DecodeStep step(host.forward, Limits(drafts));
    std::deque<DecodeSequence> sequences;
    std::vector<std::pair<std::vector<int32_t>, model::SamplingParams>> asked;
    const auto join = [&](int length, int tokens) {
      model::SamplingParams sampling = Sampling(tokens, length);
      sampling.ignore_eos = false;
      asked.push_back({Prompt(length), sampling});
      sequences.push_back(HandOver(Prompt(length), sampling, host, int(sequences.size()) * 6,
                                   drafts, step.limits()));
    };
    join(60, 9);
    join(128, 70);
    join(63, 31);
    const auto launch = [&] {
      std::vector<DecodeSequence*> running;
      for (auto& s : sequences)
        if (s.finish == FinishReason::kNone) running.push_back(&s);
      if (!running.empty()) step.Launch(running);
    };
    launch();
    for (int round = 0; step.in_flight() > 0; ++round) {
      if (round == 5) join(200, 25);
      launch();
      for (const StepOutput& output : step.Finish()) ASSERT_TRUE(output.status.ok());
    }
    for (size_t i = 0; i < sequences.size(); ++i)
      EXPECT_EQ(Generated(sequences[i]), Solo(asked[i].first, asked[i].second)) << i;
  }
}

// Ranks with 3, 1 and 0 (then 2) sequences that end at different steps; a rank that made one run
// too few or too many would wait for ever at the barrier. With an exchange that wants the same rows
// of all ranks, those with fewer sequences bring empty rows.
class Lockstep : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(SameRows, Lockstep, ::testing::Bool());

TEST_P(Lockstep, RanksEqualSolo) {
  for (int drafts : {0, 1, 3}) {
    constexpr int kRanks = 4;
    constexpr int kMost = 3;
    const int counts[kRanks] = {3, 1, 0, 2};
    LockstepGroup group(kRanks, FakeForward::kExperts, FakeForward::kDim,
                        /*same_rows=*/GetParam());
    std::vector<std::unique_ptr<FakeHost>> hosts;
    std::vector<std::vector<DecodeSequence>> sequences(kRanks);
    for (int r = 0; r < kRanks; ++r) {
      hosts.push_back(
          std::make_unique<FakeHost>(FakeForward::Rank(true, r, kRanks), kPages, group.rank(r)));
      for (int i = 0; i < counts[r]; ++i) {
        sequences[r].push_back(HandOver(Prompt(50 + 30 * r + i, i), Sampling(10 + 9 * i, r),
                                        *hosts[r], 6 * i, drafts, Limits(drafts)));
      }
    }
    std::vector<std::jthread> threads;
    for (int r = 0; r < kRanks; ++r) {
      threads.emplace_back([&, r] {
        DecodeStep step(hosts[r]->forward, Limits(drafts));
        for (int round = 0; round < 30; ++round) {
          std::vector<DecodeSequence*> running;
          for (auto& s : sequences[r]) {
            if (s.finish == FinishReason::kNone) running.push_back(&s);
          }
          step.Run(running, kMost);
        }
      });
    }
    threads.clear();
    for (int r = 0; r < kRanks; ++r) {
      for (int i = 0; i < counts[r]; ++i) {
        EXPECT_EQ(Generated(sequences[r][i]),
                  Solo(Prompt(50 + 30 * r + i, i), Sampling(10 + 9 * i, r)));
      }
    }
  }
}

TEST(StartSequence, TheFirstTokenMayEndIt) {
  const DecodeLimits limits = Limits(1);
  EXPECT_EQ(
      StartSequence(1, {5, 6}, {.max_new_tokens = 9}, {}, FakeForward::kEos, {}, limits).finish,
      FinishReason::kStop);
  EXPECT_EQ(StartSequence(1, {5, 6}, {.max_new_tokens = 1}, {}, 9, {}, limits).finish,
            FinishReason::kLength);
  const auto going = StartSequence(1, {5, 6}, {.max_new_tokens = 2}, {}, 9, {4}, limits);
  EXPECT_EQ(going.finish, FinishReason::kNone);
  EXPECT_EQ(going.generated(), 1);
}

}  // namespace
}  // namespace baleen::engine
