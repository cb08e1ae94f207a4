// The trained checkpoint through the whole engine, against golden.json.
#include "engine/local_model.h"

#include <fstream>
#include <iostream>
#include <map>

#include "common/check.h"
#include "nlohmann/json.hpp"
#include "tests/testing/status_matchers.h"

namespace baleen::engine {
namespace {

using ::baleen::testing::StatusIs;
using ::testing::HasSubstr;

const std::string kTiny = std::string(BALEEN_SOURCE_DIR) + "/models/tiny-dsv32";

const nlohmann::json& Prompts() {
  static const auto* prompts = [] {
    std::ifstream in(kTiny + "/golden/golden.json");
    return new nlohmann::json(nlohmann::json::parse(in)["prompts"]);
  }();
  return *prompts;
}
std::vector<int32_t> Ids(const std::string& prompt, const char* field) {
  return Prompts()[prompt][field].get<std::vector<int32_t>>();
}

std::unique_ptr<LocalModel> Load(int drafts, int chunk, Numerics numerics = Numerics::kExact) {
  auto local = LocalModel::Create({.directory = kTiny,
                                   .numerics = numerics,
                                   .drafts = drafts,
                                   .chunk_tokens = chunk,
                                   .max_sequences = 8,
                                   .max_context = 2048});
  BALEEN_CHECK_MSG(local.ok(), local.status().ToString().c_str());
  return *std::move(local);
}

model::SamplingParams Greedy(size_t tokens) {
  return {.max_new_tokens = static_cast<int>(tokens), .temperature = 0};
}

class EveryShape : public ::testing::TestWithParam<std::tuple<int, int>> {};
INSTANTIATE_TEST_SUITE_P(DraftsAndChunks, EveryShape,
                         ::testing::Values(std::tuple(0, 64), std::tuple(1, 512),
                                           std::tuple(2, 100), std::tuple(3, 64)));

TEST_P(EveryShape, GreedyContinuationsAreTheGoldenOnes) {
  const auto [drafts, chunk] = GetParam();
  const auto local = Load(drafts, chunk);
  std::map<std::string, uint64_t> ids;
  for (const auto& [name, prompt] : Prompts().items()) {
    const size_t tokens = prompt["greedy_ids"].size();
    ids[name] = local->engine().Submit(Ids(name, "prompt_ids"), Greedy(tokens)).value();
  }
  while (local->engine().Step()) {
  }
  for (const auto& [name, id] : ids) {
    const auto result = local->engine().Take(id);
    EXPECT_EQ(result->tokens, Ids(name, "greedy_ids")) << name;
    std::cout << name << ": " << result->tokens_per_step() << " tokens a verify step\n";
    if (drafts > 0 && (name == "story" || name == "needle" || name == "tool")) {
      EXPECT_GE(result->tokens_per_step(), 1.8) << name;
    }
  }
}

TEST_P(EveryShape, SeededSamplingIsTheSame) {
  const auto sampled = [](LocalModel& local, uint64_t seed) {
    return local.engine()
        .Generate(Ids("story", "prompt_ids"),
                  {.max_new_tokens = 60, .temperature = 1, .top_p = 0.95f, .seed = seed})
        .tokens;
  };
  static const auto* expected = [&] {
    auto* all = new std::vector<std::vector<int32_t>>;
    const auto plain = Load(0, 512);
    for (uint64_t seed : {1, 2, 3}) all->push_back(sampled(*plain, seed));
    return all;
  }();
  const auto [drafts, chunk] = GetParam();
  const auto local = Load(drafts, chunk);
  for (uint64_t seed : {1, 2, 3}) EXPECT_EQ(sampled(*local, seed), (*expected)[seed - 1]);
  EXPECT_NE((*expected)[0], (*expected)[1]);
}

TEST(LocalModel, Fp8AnswersTheCapital) {
  const auto local = Load(1, 512, Numerics::kFp8);
  const auto result = local->engine().Generate(Ids("capital", "prompt_ids"), Greedy(60));
  EXPECT_EQ(result.tokens, Ids("capital", "greedy_ids"));
  EXPECT_EQ(result.finish, FinishReason::kStop);
}

TEST(LocalModel, LogprobsAreOfTheModel) {
  const auto local = Load(1, 512);
  model::SamplingParams params = Greedy(20);
  params.top_logprobs = 5;
  params.prompt_logprobs = true;
  const auto result = local->engine().Generate(Ids("prose", "prompt_ids"), params);
  ASSERT_EQ(result.logprobs.size(), 20);
  for (const auto& entry : result.logprobs) {
    EXPECT_EQ(entry.top_tokens[0], entry.token);
    EXPECT_LE(entry.logprob, 0);
    EXPECT_EQ(entry.top_logprobs[0], entry.logprob);
  }
  EXPECT_EQ(result.prompt_logprobs.size(), Ids("prose", "prompt_ids").size() - 1);
}

TEST(LocalModel, RefusesOptionsByName) {
  const auto refusal = [](LocalModelOptions options) {
    options.directory = kTiny;
    return LocalModel::Create(options).status();
  };
  using absl::StatusCode;
  EXPECT_THAT(refusal({.drafts = 4}), StatusIs(StatusCode::kInvalidArgument, HasSubstr("drafts")));
  EXPECT_THAT(refusal({.threads = 0}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("threads")));
  EXPECT_THAT(refusal({.max_context = 1 << 20}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("max_context")));
  EXPECT_THAT(LocalModel::Create({.directory = "/nowhere"}).status(),
              StatusIs(StatusCode::kNotFound, HasSubstr("/nowhere")));
}

}  // namespace
}  // namespace baleen::engine
