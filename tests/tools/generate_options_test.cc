#include "tools/generate_options.h"

#include "tests/testing/status_matchers.h"

namespace baleen::tools {
namespace {

using ::baleen::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<GenerateOptions> Parse(std::vector<std::string> args) {
  return ParseGenerateOptions(args);
}

TEST(GenerateOptions, ReadsEveryArgument) {
  const auto o = Parse({"--model",
                        "m",
                        "--prompt-ids=1,22,3",
                        "--max-tokens",
                        "7",
                        "--temperature",
                        "0.5",
                        "--top-p=0.9",
                        "--top-k",
                        "4",
                        "--seed",
                        "18446744073709551615",
                        "--top-logprobs",
                        "0",
                        "--drafts",
                        "3",
                        "--mode",
                        "fp8",
                        "--chunk",
                        "64",
                        "--threads",
                        "2",
                        "--json",
                        "--ignore-eos"});
  BALEEN_ASSERT_OK(o);
  EXPECT_EQ(o->model, "m");
  EXPECT_THAT(*o->prompt_ids, ElementsAre(1, 22, 3));
  EXPECT_EQ(o->sampling.max_new_tokens, 7);
  EXPECT_EQ(o->sampling.temperature, 0.5f);
  EXPECT_EQ(o->sampling.top_p, 0.9f);
  EXPECT_EQ(o->sampling.top_k, 4);
  EXPECT_EQ(o->sampling.seed, UINT64_MAX);
  EXPECT_EQ(o->sampling.top_logprobs, 0);
  EXPECT_TRUE(o->sampling.ignore_eos);
  EXPECT_EQ(o->drafts, 3);
  EXPECT_EQ(o->numerics, Numerics::kFp8);
  EXPECT_EQ(o->chunk_tokens, 64);
  EXPECT_EQ(o->threads, 2);
  EXPECT_TRUE(o->json);
}

TEST(GenerateOptions, DefaultsToGreedy) {
  const auto o = Parse({"--model=m", "--prompt=a=b"});
  BALEEN_ASSERT_OK(o);
  EXPECT_EQ(o->prompt, "a=b");
  EXPECT_TRUE(o->sampling.greedy());
  EXPECT_FALSE(o->drafts.has_value());
  EXPECT_FALSE(o->json);
}

TEST(GenerateOptions, NamesWhatIsWrong) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{"--prompt", "x"}, "--model is missing"},
      {{"--model", "m"}, "give one of"},
      {{"--model", "m", "--prompt", "x", "--chat", "f"}, "give one of"},
      {{"--model"}, "--model: its value is missing"},
      {{"--modle", "m"}, "unknown argument --modle"},
      {{"--seed", "-1"}, "--seed: \"-1\""},
      {{"--max-tokens", "9999999999"}, "--max-tokens"},
      {{"--temperature", "hot"}, "--temperature: \"hot\" is not a number"},
      {{"--prompt-ids", "1,,2"}, "--prompt-ids"},
      {{"--prompt-ids", ""}, "--prompt-ids"},
      {{"--prompt-ids", "-1"}, "--prompt-ids"},
      {{"--mode", "int4"}, "exact or fp8"},
  };
  for (const auto& [args, message] : cases) {
    EXPECT_THAT(Parse(args), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
  }
}

}  // namespace
}  // namespace baleen::tools
