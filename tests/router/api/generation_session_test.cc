#include "router/api/generation_session.h"

#include <random>

#include "gmock/gmock.h"
#include "proto/sampling.pb.h"
#include "router/api/tiny_model.h"

namespace baleen::router {
namespace {

using Kind = chat::OutputEvent::Kind;
constexpr uint32_t kEos = 1;

std::vector<uint32_t> Ids(const std::string& text) {
  const auto ids = TinyModel().tokenizer->Encode(text);
  BALEEN_CHECK(ids.ok());
  return {ids->begin(), ids->end()};
}

// Everything one session gave out.
struct Collected {
  std::string text, reasoning, content, calls;
  std::vector<uint32_t> tokens;
  std::vector<TokenLogprob> logprobs;
  OutputEnding ending;
  int completion_tokens = 0;
  bool stop_matched = false;

  void Add(const OutputDelta& delta) {
    text += delta.text;
    for (const auto& e : delta.events) {
      if (e.kind == Kind::kReasoning) reasoning += e.text;
      if (e.kind == Kind::kContent) content += e.text;
      if (e.call >= 0) calls += e.text;
    }
    tokens.insert(tokens.end(), delta.tokens.begin(), delta.tokens.end());
    logprobs.insert(logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
  }
};

// Pushes `tokens` in steps of the given sizes, in turn.
Collected Generate(const OutputOptions& output, const std::vector<uint32_t>& tokens,
                   const std::function<size_t()>& step_size,
                   const v1::SamplingParams& sampling = {},
                   TokenFinish finish = TokenFinish::kStop) {
  GenerationSession session(TinyModel(), output, sampling);
  Collected all;
  for (size_t i = 0; i < tokens.size() && !session.stop_matched();) {
    TokenStep step;
    for (size_t n = std::max<size_t>(step_size(), 1); n > 0 && i < tokens.size(); --n, ++i) {
      step.tokens.push_back(tokens[i]);
      if (output.logprobs) step.logprobs.push_back({.token = tokens[i], .logprob = -1.f});
    }
    all.Add(session.Push(std::move(step)));
  }
  const FinishInfo info{.reason = finish};
  all.stop_matched = session.stop_matched();
  all.ending = session.Finish(all.stop_matched ? nullptr : &info);
  all.Add(all.ending.last);
  all.completion_tokens = session.completion_tokens();
  return all;
}
size_t One() { return 1; }

constexpr char kAnswer[] =
    "Two öä 漢字 readings.</think>It is “warm” 🙂.\n\n<｜DSML｜function_calls>\n"
    "<｜DSML｜invoke name=\"get\">\n<｜DSML｜parameter name=\"city\" string=\"true\">Zürich"
    "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>";

TEST(GenerationSession, TheAnswerDoesNotDependOnTheSteps) {
  std::vector<uint32_t> tokens = Ids(kAnswer);
  tokens.push_back(kEos);
  for (const std::vector<std::string>& stop :
       {std::vector<std::string>{}, {"never said"}, {"warm”", "xyz"}}) {
    const OutputOptions output{
        .chat = true, .starts_in_reasoning = true, .expects_tool_calls = true, .stop = stop};
    const Collected want = Generate(output, tokens, One);
    EXPECT_EQ(want.reasoning, "Two öä 漢字 readings.");
    EXPECT_EQ(want.stop_matched, stop.size() == 2);
    EXPECT_EQ(want.content, stop.size() == 2 ? "It is “" : "It is “warm” 🙂.");
    EXPECT_EQ(want.calls, stop.size() == 2 ? "" : R"(get{"city": "Zürich"})");
    EXPECT_STREQ(want.ending.finish_reason, stop.size() == 2 ? "stop" : "tool_calls");
    for (uint32_t seed = 1; seed <= 20; ++seed) {
      std::mt19937 rng(seed);
      const Collected got = Generate(output, tokens, [&] { return rng() % 6; });
      EXPECT_EQ(got.reasoning, want.reasoning) << "seed " << seed;
      EXPECT_EQ(got.content, want.content) << "seed " << seed;
      EXPECT_EQ(got.calls, want.calls) << "seed " << seed;
      EXPECT_EQ(got.tokens, want.tokens) << "seed " << seed;
      EXPECT_EQ(got.completion_tokens, want.completion_tokens) << "seed " << seed;
    }
  }
}

TEST(GenerationSession, TokensAndLogprobsTravelWithTheirText) {
  const std::vector<uint32_t> tokens = Ids("漢字 and 🙂");
  GenerationSession session(TinyModel(), {.logprobs = true}, {});
  std::vector<uint32_t> seen;
  for (uint32_t token : tokens) {
    const OutputDelta delta =
        session.Push({.tokens = {token}, .logprobs = {{.token = token, .logprob = -1}}});
    EXPECT_EQ(delta.tokens.empty(), delta.text.empty());
    EXPECT_EQ(delta.logprobs.size(), delta.tokens.size());
    seen.insert(seen.end(), delta.tokens.begin(), delta.tokens.end());
  }
  EXPECT_EQ(seen, tokens);
}

TEST(GenerationSession, StopTokensAreCountedButNotShown) {
  std::vector<uint32_t> tokens = Ids("Hello");
  const size_t words = tokens.size();
  tokens.push_back(kEos);
  const Collected eos = Generate({}, tokens, One);
  EXPECT_EQ(eos.text, "Hello");
  EXPECT_EQ(eos.completion_tokens, static_cast<int>(words) + 1);
  EXPECT_EQ(eos.tokens.size(), words);
  v1::SamplingParams sampling;
  sampling.add_stop_token_ids(60);
  tokens.back() = 60;
  EXPECT_EQ(Generate({}, tokens, One, sampling).text, "Hello");
}

TEST(GenerationSession, AStopTokensLogprobComesWithTheEnding) {
  const Collected all = Generate({.logprobs = true}, {60, kEos}, One);
  ASSERT_EQ(all.logprobs.size(), 1u);
  EXPECT_EQ(all.logprobs[0].token, 60u);
  ASSERT_TRUE(all.ending.stop_token.has_value());
  EXPECT_EQ(all.ending.stop_token->token, kEos);
  EXPECT_EQ(all.ending.stop_token->logprob, -1);
  EXPECT_FALSE(Generate({}, {60, kEos}, One).ending.stop_token.has_value());
  EXPECT_FALSE(Generate({.logprobs = true}, {60}, One).ending.stop_token.has_value());
}

TEST(GenerationSession, WithThePromptOnlyNothingOfTheAnswerIsSeen) {
  for (const uint32_t token : {60u, kEos}) {
    GenerationSession session(TinyModel(), {.prompt_only = true, .logprobs = true}, {});
    const TokenLogprob t{.token = token, .logprob = -1};
    const OutputDelta delta = session.Push(
        {.tokens = {token}, .logprobs = {t}, .prompt_logprobs = {t, t}, .cached_tokens = 2});
    EXPECT_FALSE(delta.has_text());
    EXPECT_EQ(delta.prompt_logprobs.size(), 2u);
    const FinishInfo info{.reason = TokenFinish::kStop, .new_tokens = 1};
    const OutputEnding ending = session.Finish(&info);
    EXPECT_STREQ(ending.finish_reason, "length");
    EXPECT_EQ(ending.info.reason, TokenFinish::kLength);
    EXPECT_TRUE(ending.last.tokens.empty() && ending.last.logprobs.empty());
    EXPECT_FALSE(ending.stop_token.has_value());
    EXPECT_EQ(session.completion_tokens(), 0);
  }
}

TEST(GenerationSession, IgnoredEndsOfSentenceLeaveNoTrace) {
  std::vector<uint32_t> tokens = Ids("Hel");
  tokens.push_back(kEos);
  for (uint32_t token : Ids("lo")) tokens.push_back(token);
  v1::SamplingParams sampling;
  sampling.set_ignore_eos(true);
  for (const bool chat : {false, true}) {
    const Collected all = Generate({.chat = chat}, tokens, One, sampling, TokenFinish::kLength);
    EXPECT_EQ(chat ? all.content : all.text, "Hello");
    EXPECT_EQ(all.completion_tokens, static_cast<int>(tokens.size()));
    EXPECT_STREQ(all.ending.finish_reason, "length");
  }
}

TEST(GenerationSession, TheRestOfAStepAfterAStopStringIsDropped) {
  const Collected all = Generate({.stop = {"wo"}}, Ids("one two three"), [] { return 100; });
  EXPECT_EQ(all.text, "one t");
  EXPECT_EQ(all.ending.matched_stop, "wo");
  EXPECT_LT(all.completion_tokens, static_cast<int>(Ids("one two three").size()) + 1);
  const Collected kept = Generate({.stop = {"wo"}, .keep_stop = true}, Ids("one two three"), One);
  EXPECT_EQ(kept.text, "one two");
}

TEST(GenerationSession, HeldBackTextComesWithTheEnd) {
  const Collected all = Generate({.stop = {"three four"}}, Ids("one two three"), One);
  EXPECT_EQ(all.text, "one two three");
  EXPECT_FALSE(all.stop_matched);
  EXPECT_EQ(all.tokens, Ids("one two three"));
}

TEST(GenerationSession, ACallCutShortIsNeverACleanStop) {
  const std::string cut(kAnswer, std::string(kAnswer).find("Zürich") + 3);
  const OutputOptions output{.chat = true, .starts_in_reasoning = true, .expects_tool_calls = true};
  const Collected all = Generate(output, Ids(cut), One);
  EXPECT_TRUE(all.ending.parsed.incomplete_call);
  EXPECT_STREQ(all.ending.finish_reason, "length");
}

}  // namespace
}  // namespace baleen::router
