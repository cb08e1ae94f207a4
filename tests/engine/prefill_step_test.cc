#include "engine/prefill_step.h"

#include <cstring>
#include <memory>

#include "engine/memory_plan.h"
#include "gmock/gmock.h"
#include "tests/testing/fake_pool.h"
#include "tests/testing/status_matchers.h"

namespace baleen::engine {
namespace {

using ::baleen::testing::FakeForward;
using ::baleen::testing::FakeHost;
using ::baleen::testing::StatusIs;
using ::testing::HasSubstr;

constexpr int kContext = 1024;

std::vector<int32_t> Prompt(int tokens, int salt = 0) {
  std::vector<int32_t> prompt;
  for (int i = 0; i < tokens; ++i) prompt.push_back(2 + (i * i + 31 * i + 7 * salt) % 90);
  return prompt;
}

std::vector<PageId> Pages(int first, int count) {
  std::vector<PageId> pages;
  for (int i = 0; i < count; ++i) pages.push_back(PageId{first + i});
  return pages;
}

// A pipeline in one thread: each stage has its own pool, the stream is copied from stage to stage.
struct Pipeline {
  Pipeline(int stages, int drafts) {
    for (int s = 0; s < stages; ++s) {
      const model::Shard shard = FakeForward::Stage(drafts > 0, s, stages);
      hosts.push_back(std::make_unique<FakeHost>(shard, 30));
      steps.push_back(std::make_unique<PrefillStep>(
          hosts.back()->forward, PrefillStep::Options{.shard = shard,
                                                      .drafts = drafts,
                                                      .max_rows = 600,
                                                      .max_head_rows = 2,
                                                      .max_context = kContext,
                                                      .vocabulary = FakeForward::Vocabulary()}));
    }
  }

  std::vector<PrefillResult> Run(const std::vector<PrefillChunk>& chunks) {
    std::vector<PrefillResult> results;
    for (size_t s = 0; s < steps.size(); ++s) {
      if (s > 0) {
        const kernels::Matrix from = hosts[s - 1]->forward.stream();
        std::memcpy(hosts[s]->forward.stream().data, from.data,
                    size_t(from.rows) * from.stride * sizeof(float));
      }
      results = steps[s]->Run(chunks);
      EXPECT_EQ(results.empty(), s + 1 < steps.size());
    }
    return results;
  }

  // Prefills alone, `chunk` tokens at a time.
  PrefillResult Prefill(const std::vector<int32_t>& prompt, int chunk, model::SamplingParams params,
                        int first_page = 0) {
    const auto pages = Pages(first_page, PrefillPages(prompt.size(), 3, kContext));
    for (size_t begin = 0;; begin += chunk) {
      const size_t end = std::min(begin + chunk, prompt.size());
      PrefillChunk piece{.id = 7,
                         .tokens = {prompt.begin() + begin, prompt.begin() + end},
                         .first_position = static_cast<int>(begin),
                         .last = end == prompt.size(),
                         .next_token = end == prompt.size() ? 0 : prompt[end],
                         .pages = pages,
                         .sampling = params,
                         .earlier_tokens = {prompt.begin(), prompt.begin() + begin}};
      const PrefillResult result = Run({piece}).at(0);
      EXPECT_EQ(result.finished, piece.last);
      if (piece.last) return result;
    }
  }

  std::vector<std::unique_ptr<FakeHost>> hosts;
  std::vector<std::unique_ptr<PrefillStep>> steps;
};

TEST(PrefillStep, FirstTokenAndDraftsDependOnNeitherChunksNorStages) {
  const model::SamplingParams params{
      .temperature = 0.9f, .repetition_penalty = 1.3f, .seed = 11, .top_logprobs = 2};
  for (int length : {1, 2, 63, 64, 65, 127, 128, 129, 192}) {
    const auto prompt = Prompt(length);
    Pipeline whole(1, 3);
    const PrefillResult expected = whole.Prefill(prompt, 512, params);
    ASSERT_EQ(expected.drafts.size(), 3);
    for (int stages : {1, 2, 4}) {
      for (int chunk : {1, 50, 64, 65}) {
        Pipeline pipeline(stages, 3);
        const PrefillResult result = pipeline.Prefill(prompt, chunk, params);
        EXPECT_EQ(result.first_token, expected.first_token);
        EXPECT_EQ(result.drafts, expected.drafts) << length << " " << stages << " " << chunk;
        EXPECT_EQ(result.logprobs->logprob, expected.logprobs->logprob);
        EXPECT_EQ(result.id, 7);
      }
    }
  }
}

TEST(PrefillStep, SeveralSequencesInABatchEqualEachAlone) {
  Pipeline alone(1, 2), together(2, 2);
  const model::SamplingParams params{.temperature = 0, .prompt_logprobs = true};
  std::vector<PrefillChunk> chunks;
  for (int i = 0; i < 4; ++i) {
    chunks.push_back({.id = uint64_t(i),
                      .tokens = Prompt(30 + 20 * i, i),
                      .last = i != 2,
                      .next_token = 44,
                      .pages = Pages(5 * i, 2),
                      .sampling = params});
  }
  const auto results = together.Run(chunks);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(results[i].id, i);
    EXPECT_EQ(results[i].finished, i != 2);
    EXPECT_EQ(results[i].prompt_logprobs.size(), chunks[i].tokens.size() - (i == 2 ? 0 : 1));
    if (i == 2) {
      EXPECT_EQ(results[i].prompt_logprobs.back().token, 44);
      EXPECT_TRUE(results[i].drafts.empty());
      continue;
    }
    const auto expected = alone.Prefill(chunks[i].tokens, 512, params, 20);
    EXPECT_EQ(results[i].first_token, expected.first_token);
    EXPECT_EQ(results[i].drafts, expected.drafts);
    EXPECT_EQ(results[i].prompt_logprobs[3].logprob, expected.prompt_logprobs[3].logprob);
  }
}

TEST(PrefillStep, DraftsWithoutASlotAreLeftOut) {
  Pipeline pipeline(1, 3);
  const auto prompt = Prompt(63);
  PrefillChunk chunk{.tokens = prompt, .last = true, .pages = Pages(0, 1)};
  EXPECT_EQ(pipeline.Run({chunk})[0].drafts.size(), 2) << "the third row would need a second page";
}

TEST(PrefillStep, NanFailsItsPromptOnly) {
  Pipeline pipeline(1, 1);
  pipeline.hosts[0]->forward.poison_token = 95;
  std::vector<PrefillChunk> chunks = {
      {.id = 1, .tokens = {4, 95}, .last = true, .pages = Pages(0, 1)},
      {.id = 2, .tokens = {4, 5}, .last = true, .pages = Pages(1, 1)},
      {.id = 3,
       .tokens = {95, 5},
       .last = true,
       .pages = Pages(2, 1),
       .sampling = {.prompt_logprobs = true}}};
  const auto results = pipeline.Run(chunks);
  EXPECT_THAT(results[0].status, StatusIs(absl::StatusCode::kInternal, HasSubstr("NaN")));
  EXPECT_FALSE(results[0].finished);
  EXPECT_TRUE(results[1].status.ok());
  EXPECT_EQ(results[1].drafts.size(), 1);
  EXPECT_THAT(results[2].status, StatusIs(absl::StatusCode::kInternal, HasSubstr("NaN")));
}

TEST(PrefillStep, WithoutDraftsMtpIsNeverRun) {
  Pipeline pipeline(1, 0);
  const auto result = pipeline.Prefill(Prompt(100), 30, {});
  EXPECT_TRUE(result.drafts.empty());
  EXPECT_EQ(pipeline.hosts[0]->forward.mtp_runs, 0);
}

}  // namespace
}  // namespace baleen::engine
