#include "worker/handoff_payload.h"

#include "testing/status_matchers.h"

namespace baleen::worker {
namespace {

HandoffLogprobs Example() {
  HandoffLogprobs logprobs;
  logprobs.first = {
      .token = 7, .logprob = -0.5f, .top_tokens = {7, 3}, .top_logprobs = {-0.5f, -2}};
  logprobs.prompt = {{.token = 1, .logprob = -1},
                     {.token = 2, .logprob = -3, .top_tokens = {9}, .top_logprobs = {-0.25f}}};
  return logprobs;
}

TEST(HandoffPayload, LogprobsComeBackAsTheyWere) {
  const auto back = DecodeHandoffLogprobs(Encode(Example()));
  BALEEN_ASSERT_OK(back.status());
  ASSERT_TRUE(back->first.has_value());
  EXPECT_EQ(back->first->token, 7);
  EXPECT_EQ(back->first->top_tokens, (std::vector<int32_t>{7, 3}));
  EXPECT_EQ(back->first->top_logprobs, (std::vector<float>{-0.5f, -2}));
  ASSERT_EQ(back->prompt.size(), 2u);
  EXPECT_EQ(back->prompt[1].logprob, -3);
  EXPECT_EQ(back->prompt[1].top_tokens, (std::vector<int32_t>{9}));
}

TEST(HandoffPayload, NothingAskedForIsNoBytes) {
  EXPECT_EQ(Encode({}), "");
  const auto back = DecodeHandoffLogprobs("");
  BALEEN_ASSERT_OK(back.status());
  EXPECT_FALSE(back->first.has_value());
}

TEST(HandoffPayload, EveryTruncationIsRefused) {
  const std::string whole = Encode(Example());
  for (size_t n = 1; n < whole.size(); ++n)
    EXPECT_FALSE(DecodeHandoffLogprobs(whole.substr(0, n)).ok()) << n;
  EXPECT_FALSE(DecodeHandoffLogprobs(whole + "x").ok());
}

TEST(HandoffPayload, HashTellsPromptsApartAndIsNeverZero) {
  const std::vector<int32_t> a = {1, 2, 3}, b = {1, 2, 4};
  EXPECT_NE(PromptHash(a), PromptHash(b));
  EXPECT_EQ(PromptHash(a), PromptHash(std::vector<int32_t>(a)));
  EXPECT_NE(PromptHash({}), 0u);
}

}  // namespace
}  // namespace baleen::worker
