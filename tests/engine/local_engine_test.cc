#include "engine/local_engine.h"

#include <map>

#include "gmock/gmock.h"
#include "tests/testing/fake_pool.h"
#include "tests/testing/status_matchers.h"

namespace baleen::engine {
namespace {

using ::baleen::testing::FakeForward;
using ::baleen::testing::FakeHost;
using ::baleen::testing::IsOk;
using ::baleen::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Rig {
  explicit Rig(int drafts, int chunk = 64, int pages = 200, int max_context = 1024)
      : shard(FakeForward::Whole(drafts > 0)),
        host(shard, pages),
        engine(host.forward, {.shard = shard,
                              .pages = pages,
                              .chunk_tokens = chunk,
                              .max_sequences = 8,
                              .max_head_rows = 5,
                              .drafts = drafts,
                              .max_context = max_context,
                              .vocabulary = FakeForward::Vocabulary()}) {}
  model::Shard shard;
  FakeHost host;
  LocalEngine engine;
};

std::vector<int32_t> Prompt(int tokens, int salt = 0) {
  std::vector<int32_t> prompt;
  for (int i = 0; i < tokens; ++i) prompt.push_back(2 + (i * i + 31 * i + 7 * salt) % 90);
  return prompt;
}

model::SamplingParams Greedy(int tokens) {
  return {.max_new_tokens = tokens, .temperature = 0, .ignore_eos = true};
}

model::SamplingParams Seeded(int tokens) {
  return {.max_new_tokens = tokens, .temperature = 0.8f, .top_p = 0.95f, .top_k = 40, .seed = 42};
}

// The plainest decoding there is: the whole sequence from scratch for every token.
std::vector<int32_t> Reference(std::vector<int32_t> tokens, const model::SamplingParams& params) {
  FakeHost host(FakeForward::Whole(false), 20);
  const size_t prompt = tokens.size();
  const model::SamplingLimits limits = {
      .max_rows = 1, .max_sequences = 1, .vocabulary = FakeForward::Vocabulary()};
  model::RowSampler sampler(host.forward.backend(), limits);
  model::SamplingBatch sampling(host.forward.backend(), limits);
  model::TokenHistory history(params, tokens);
  std::vector<int32_t> page_table(20), positions, sequences;
  for (int i = 0; i < 20; ++i) page_table[i] = 19 - i;
  while (tokens.size() < prompt + params.max_new_tokens) {
    positions.clear();
    for (size_t i = 0; i < tokens.size(); ++i) positions.push_back(static_cast<int>(i));
    sequences.assign(tokens.size(), 0);
    host.forward.RunMain({tokens, positions, sequences, page_table, 20});
    const int32_t row[] = {static_cast<int32_t>(tokens.size()) - 1};
    sampling.Clear();
    sampling.AddSequence(params, history, static_cast<int>(tokens.size()), {});
    sampler.Upload(sampling);
    sampler.Sample(host.forward.Head(model::Forward::Hidden::kMain, row), 0);
    sampler.Download(sampling);
    const int32_t token = sampling.TokenOf(0);
    tokens.push_back(token);
    history.Add(token);
    if (!params.ignore_eos && token == FakeForward::kEos) break;
  }
  return {tokens.begin() + prompt, tokens.end()};
}

class EveryShape : public ::testing::TestWithParam<std::tuple<int, int>> {
 protected:
  int drafts() const { return std::get<0>(GetParam()); }
  int chunk() const { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(DraftsAndChunks, EveryShape,
                         ::testing::Combine(::testing::Values(0, 1, 2, 3),
                                            ::testing::Values(1, 64, 65, 512)));

TEST_P(EveryShape, GreedyEqualsPlainDecoding) {
  for (int length : {1, 2, 63, 64, 65, 127, 128, 129, 200}) {
    Rig rig(drafts(), chunk());
    const auto result = rig.engine.Generate(Prompt(length), Greedy(40));
    ASSERT_THAT(result.status, IsOk());
    EXPECT_EQ(result.tokens, Reference(Prompt(length), Greedy(40))) << "length " << length;
    EXPECT_EQ(result.finish, FinishReason::kLength);
  }
}

TEST_P(EveryShape, SeededSamplingAndPenaltiesEqualPlainDecoding) {
  model::SamplingParams params = Seeded(60);
  params.repetition_penalty = 1.2f;
  params.frequency_penalty = 0.3f;
  params.presence_penalty = 0.2f;
  params.min_new_tokens = 20;
  params.logit_bias = {{7, 2.0f}, {9, -100.0f}};
  for (uint64_t seed : {1, 2, 3}) {
    params.seed = seed;
    Rig rig(drafts(), chunk());
    const auto result = rig.engine.Generate(Prompt(130), params);
    ASSERT_THAT(result.status, IsOk());
    EXPECT_EQ(result.tokens, Reference(Prompt(130), params)) << "seed " << seed;
  }
}

TEST_P(EveryShape, ManyAtOnceEqualAlone) {
  Rig rig(drafts(), chunk(), /*pages=*/40);  // some must wait for pages
  std::map<uint64_t, std::pair<std::vector<int32_t>, model::SamplingParams>> requests;
  for (int i = 0; i < 14; ++i) {
    model::SamplingParams params = Seeded(5 + 7 * i % 30);
    params.seed = i;
    const auto prompt = Prompt(1 + 37 * i % 190, i % 5);
    requests[rig.engine.Submit(prompt, params).value()] = {prompt, params};
  }
  while (rig.engine.Step()) {
  }
  for (const auto& [id, request] : requests) {
    EXPECT_EQ(rig.engine.Take(id)->tokens, Reference(request.first, request.second)) << id;
  }
  rig.engine.FlushCache();
  EXPECT_EQ(rig.engine.pages().free, 40);
}

TEST(LocalEngine, DraftsAreAcceptedMoreOftenThanNot) {
  Rig rig(1);
  const auto one = rig.engine.Generate(Prompt(70), Greedy(200));
  EXPECT_GT(one.tokens_per_step(), 1.5);
  EXPECT_EQ(one.accepted_drafts, int(one.tokens.size()) - 1 - one.steps);
  Rig deep(3);
  EXPECT_GT(deep.engine.Generate(Prompt(70), Greedy(200)).tokens_per_step(), one.tokens_per_step());
}

TEST(LocalEngine, PrefixCacheChangesNothingButTheWork) {
  for (int drafts : {0, 1, 3}) {
    Rig rig(drafts);
    const auto prompt = Prompt(300);
    const auto cold = rig.engine.Generate(prompt, Greedy(30));
    auto warm = rig.engine.Generate(prompt, Greedy(30));
    EXPECT_EQ(cold.cached_tokens, 0);
    EXPECT_EQ(warm.cached_tokens, 256);
    EXPECT_EQ(warm.tokens, cold.tokens);
    EXPECT_EQ(warm.steps, cold.steps) << "stale MTP rows cost acceptance";

    auto forked = prompt;
    forked[256] = forked[256] == 5 ? 6 : 5;  // differs just after the fourth page
    const auto fork = rig.engine.Generate(forked, Greedy(30));
    EXPECT_EQ(fork.cached_tokens, drafts > 0 ? 192 : 256);
    Rig fresh(drafts);
    const auto alone = fresh.engine.Generate(forked, Greedy(30));
    EXPECT_EQ(fork.tokens, alone.tokens);
    EXPECT_EQ(fork.steps, alone.steps);
  }
}

TEST(LocalEngine, FailedPrefillLeavesNothingInThePrefixCache) {
  Rig rig(1);
  auto prompt = Prompt(200);
  const int32_t poison = 95;
  prompt.back() = poison;
  rig.host.forward.poison_token = poison;
  EXPECT_THAT(rig.engine.Generate(prompt, Greedy(5)).status,
              StatusIs(absl::StatusCode::kInternal, HasSubstr("NaN")));
  EXPECT_EQ(rig.engine.pages().free, rig.engine.pages().total);
  rig.host.forward.poison_token = -1;
  const auto again = rig.engine.Generate(prompt, Greedy(5));
  EXPECT_EQ(again.cached_tokens, 0);
  EXPECT_EQ(again.tokens, Reference(prompt, Greedy(5)));
}

TEST(LocalEngine, NanInOneSequenceDoesNotTouchTheOthers) {
  for (int drafts : {0, 2}) {
    Rig rig(drafts);
    const auto expected = Reference(Prompt(50), Greedy(30));
    model::SamplingParams forced = Greedy(30);
    forced.logit_bias = {{95, 50.0f}};
    rig.host.forward.poison_token = 95;
    ASSERT_THAT(expected, ::testing::Not(::testing::Contains(95)));
    const auto bad = rig.engine.Submit(Prompt(80), forced);
    const auto good = rig.engine.Submit(Prompt(50), Greedy(30));
    while (rig.engine.Step()) {
    }
    EXPECT_THAT(rig.engine.Take(*bad)->status,
                StatusIs(absl::StatusCode::kInternal, HasSubstr("NaN")));
    EXPECT_EQ(rig.engine.Take(*good)->tokens, expected);
  }
}

TEST(LocalEngine, StopsAtStopIdsInsideAnAcceptedRun) {
  const auto all = Reference(Prompt(70), Greedy(60));
  for (int drafts : {0, 1, 2, 3}) {
    for (int at : {0, 1, 2, 3, 5, 8, 13, 21}) {
      model::SamplingParams params = Greedy(60);
      params.stop_token_ids = {all[at]};
      const auto first = std::find(all.begin(), all.end(), all[at]);
      Rig rig(drafts);
      const auto result = rig.engine.Generate(Prompt(70), params);
      EXPECT_EQ(result.tokens, std::vector<int32_t>(all.begin(), first + 1));
      EXPECT_EQ(result.finish, FinishReason::kStop);
    }
  }
}

TEST(LocalEngine, EveryTokenLimitIsExact) {
  const auto all = Reference(Prompt(60), Greedy(12));
  for (int drafts : {0, 1, 2, 3}) {
    for (int limit = 1; limit <= 12; ++limit) {
      Rig rig(drafts);
      const auto result = rig.engine.Generate(Prompt(60), Greedy(limit));
      EXPECT_EQ(result.tokens, std::vector<int32_t>(all.begin(), all.begin() + limit));
      EXPECT_EQ(result.finish, FinishReason::kLength);
    }
  }
}

TEST(LocalEngine, FillsTheContextToTheLastToken) {
  for (int drafts : {0, 1, 2, 3}) {
    for (int context : {128, 129, 131}) {
      Rig rig(drafts, 64, 200, context);
      const auto result = rig.engine.Generate(Prompt(100), Greedy(1000));
      EXPECT_EQ(result.tokens, Reference(Prompt(100), Greedy(context - 100)));
      EXPECT_EQ(result.finish, FinishReason::kLength);
    }
  }
}

TEST(LocalEngine, RefusesWhatCannotBeServed) {
  Rig rig(1, 64, /*pages=*/4, /*max_context=*/1024);
  const auto refuse = [&](std::vector<int32_t> prompt, model::SamplingParams params) {
    return rig.engine.Submit(std::move(prompt), params).status();
  };
  using absl::StatusCode;
  EXPECT_THAT(refuse({}, Greedy(1)), StatusIs(StatusCode::kInvalidArgument, HasSubstr("empty")));
  EXPECT_THAT(refuse({5, 96}, Greedy(1)), StatusIs(StatusCode::kInvalidArgument, HasSubstr("96")));
  EXPECT_THAT(refuse({-1}, Greedy(1)), StatusIs(StatusCode::kInvalidArgument, HasSubstr("-1")));
  EXPECT_THAT(refuse(Prompt(1024), Greedy(1)),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("context 1024")));
  EXPECT_THAT(refuse(Prompt(200), Greedy(100)),
              StatusIs(StatusCode::kResourceExhausted, HasSubstr("needs 5 pages, the pool has 4")));
  EXPECT_THAT(refuse({5}, Greedy(0)),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("max_new_tokens")));
  EXPECT_FALSE(rig.engine.Step());
}

TEST(LocalEngine, CancelGivesPagesBackAtOnce) {
  Rig rig(1, 64, 20);
  const auto running = rig.engine.Submit(Prompt(300), Greedy(500));
  const auto waiting = rig.engine.Submit(Prompt(900), Greedy(100));
  rig.engine.Step();
  rig.engine.Step();
  EXPECT_EQ(rig.engine.pages().request, 13);
  rig.engine.Cancel(*running);
  rig.engine.Cancel(*waiting);
  EXPECT_EQ(rig.engine.pages().request, 0);
  EXPECT_FALSE(rig.engine.Step());
  EXPECT_FALSE(rig.engine.Take(*running).has_value());
}

TEST(LocalEngine, LogprobsAreTheSameForEveryShape) {
  model::SamplingParams params = Greedy(20);
  params.top_logprobs = 3;
  params.prompt_logprobs = true;
  Rig plain(0, 512);
  const auto expected = plain.engine.Generate(Prompt(130), params);
  ASSERT_EQ(expected.logprobs.size(), 20);
  ASSERT_EQ(expected.prompt_logprobs.size(), 129);
  EXPECT_EQ(expected.prompt_logprobs[4].token, Prompt(130)[5]);
  for (int drafts : {1, 3}) {
    for (int chunk : {1, 64, 100}) {
      Rig rig(drafts, chunk);
      const auto result = rig.engine.Generate(Prompt(130), params);
      ASSERT_EQ(result.prompt_logprobs.size(), 129);
      ASSERT_EQ(result.logprobs.size(), 20);
      for (int i = 0; i < 20; ++i) {
        EXPECT_EQ(result.logprobs[i].logprob, expected.logprobs[i].logprob);
        EXPECT_EQ(result.logprobs[i].top_tokens, expected.logprobs[i].top_tokens);
        EXPECT_EQ(result.logprobs[i].token, result.tokens[i]);
        EXPECT_EQ(result.logprobs[i].top_tokens[0], result.tokens[i]) << "greedy";
      }
      for (int i = 0; i < 129; ++i) {
        EXPECT_EQ(result.prompt_logprobs[i].logprob, expected.prompt_logprobs[i].logprob);
      }
    }
  }
}

TEST(LocalEngine, EmitsEveryTokenInOrder) {
  Rig rig(3);
  const auto id = rig.engine.Submit(Prompt(10), Greedy(30));
  std::vector<int32_t> heard;
  while (rig.engine.Step([&](uint64_t, int32_t token) { heard.push_back(token); })) {
  }
  EXPECT_EQ(heard, rig.engine.Take(*id)->tokens);
}

}  // namespace
}  // namespace baleen::engine
