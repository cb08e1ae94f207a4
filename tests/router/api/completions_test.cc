// Requests and answers of /v1/completions.
#include "gmock/gmock.h"
#include "proto/sampling.pb.h"
#include "router/api/api_error.h"
#include "router/api/requests.h"
#include "router/api/response_writer.h"
#include "router/api/tiny_model.h"
#include "testing/status_matchers.h"

namespace baleen::router {
namespace {

using baleen::testing::IsOk;
using ::testing::ElementsAre;

absl::StatusOr<ClientRequest> Parse(const char* body) {
  return ParseCompletionsRequest(TinyModel(), Json::parse(body));
}

TEST(Completions, LogprobsAreAnInteger) {
  const auto request = Parse(R"({"prompt":"a","logprobs":3,"echo":true})");
  ASSERT_THAT(request, IsOk());
  EXPECT_EQ(request->sampling->top_logprobs(), 3);
  EXPECT_TRUE(request->sampling->prompt_logprobs());
  EXPECT_THAT(request->prompt_texts, ElementsAre("a"));
  const auto without = Parse(R"({"prompt":"a","logprobs":null})");
  EXPECT_FALSE(without->sampling->has_top_logprobs());
  const auto zero = Parse(R"({"prompt":"a","logprobs":0})");
  EXPECT_TRUE(zero->sampling->has_top_logprobs());
}

TEST(Completions, UnknownFieldsAreListedAndKnownOnesAreNot) {
  const auto request =
      Parse(R"({"prompt":"a","user":"me","best_of":1,"lora_scale":3,"repetition_penalty":1.0})");
  ASSERT_THAT(request, IsOk());
  EXPECT_THAT(request->unknown_fields, ElementsAre("lora_scale"));
}

TEST(Completions, BadRequestsNameTheField) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({})", "prompt"},
      {R"({"prompt":null})", "prompt"},
      {R"({"prompt":"a","suffix":"b"})", "suffix"},
      {R"({"prompt":"a","max_tokens":0})", "max_tokens"},
      {R"({"prompt":"a","max_tokens":0,"echo":false})", "max_tokens"},
      {R"({"prompt":"a","logprobs":21})", "logprobs"},
      {R"({"prompt":"a","logprobs":true})", "logprobs"},
      {R"({"prompt":"a","echo":"x"})", "echo"},
      {R"({"prompt":"a","model":3})", "model"}};
  for (const auto& [body, param] : cases) EXPECT_EQ(ParamOf(Parse(body).status()), param) << body;
}

TEST(Completions, ABodyMustBeAnObjectOfJson) {
  for (const char* body : {"", "{", "[]", "\"x\"", "{\"prompt\":\"\xff\"}", "{\"temperature\":NaN}",
                           "{\"a\":1e999}", "nul"})
    EXPECT_EQ(ParseBody(body).status().code(), absl::StatusCode::kInvalidArgument) << body;
  EXPECT_FALSE(ParseBody(std::string(100000, '[')).ok());
}

TEST(Tokenize, NeedsAPromptOrMessages) {
  EXPECT_EQ(ParamOf(ParseTokenizeRequest(TinyModel(), Json::object()).status()), "prompt");
  const auto chat = ParseTokenizeRequest(
      TinyModel(), Json::parse(R"({"messages":[{"role":"user","content":"hi"}]})"));
  ASSERT_THAT(chat, IsOk());
  EXPECT_EQ((**chat)[0], TinyModel().bos);
  EXPECT_NE((**chat)[1], TinyModel().bos);
}

// What a writer sends for one choice whose text comes in two pieces.
class WriterTest : public ::testing::Test {
 protected:
  WriterTest() { request_.prompts.assign(2, std::make_shared<std::vector<uint32_t>>(3, 5u)); }
  ResponseContext Context() {
    return {.id = "id", .created = 7, .model = &TinyModel(), .request = &request_};
  }
  ClientRequest request_;
  ResponseWriter::Events events_;
};

OutputDelta TextDelta(const std::string& text) {
  OutputDelta delta;
  delta.text = text;
  delta.tokens = {5};
  return delta;
}

TEST_F(WriterTest, CompletionsCollectPerChoice) {
  const auto writer = MakeCompletionsWriter(Context());
  writer->OnDelta(1, TextDelta("b"), {}, &events_);
  writer->OnDelta(0, TextDelta("a"), {}, &events_);
  writer->OnEnding(0, {.last = TextDelta("c"), .finish_reason = "length"}, {}, &events_);
  writer->OnEnding(1, {}, {}, &events_);
  EXPECT_TRUE(events_.empty());
  const Json body = Json::parse(writer->Body({.prompt_tokens = 6, .completion_tokens = 3}));
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["choices"][0]["text"], "ac");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(body["choices"][1]["text"], "b");
  EXPECT_EQ(body["usage"]["total_tokens"], 9);
}

TEST_F(WriterTest, CompletionsStreamTheEchoFirst) {
  request_.stream = request_.echo = true;
  request_.prompt_texts = {"P", "Q"};
  const auto writer = MakeCompletionsWriter(Context());
  writer->OnDelta(0, TextDelta(""), {}, &events_);  // nothing certain but the prompt
  writer->OnEnding(0, {}, {}, &events_);
  ASSERT_EQ(events_.size(), 2u);
  EXPECT_EQ(Json::parse(events_[0])["choices"][0]["text"], "P");
  EXPECT_TRUE(Json::parse(events_[0])["choices"][0]["finish_reason"].is_null());
  EXPECT_EQ(Json::parse(events_[1])["choices"][0]["finish_reason"], "stop");
}

TEST_F(WriterTest, AStopTokenHasALogprobButNoText) {
  request_.output.logprobs = true;
  const TokenLogprob stop{.token = 1, .logprob = -2};
  for (const bool stream : {false, true}) {
    request_.stream = stream;
    events_.clear();
    const auto writer = MakeCompletionsWriter(Context());
    OutputDelta delta = TextDelta("a");
    delta.logprobs = {{.token = 5, .logprob = -1}};
    writer->OnDelta(0, delta, {}, &events_);
    writer->OnEnding(0, {.stop_token = stop}, {}, &events_);
    const Json choice = Json::parse(stream ? events_.back() : writer->Body({}))["choices"][0];
    EXPECT_EQ(choice["text"], stream ? "" : "a");
    const Json& logprobs = choice["logprobs"];
    const size_t entries = stream ? 1 : 2;  // the last event has its own only
    for (const char* list : {"tokens", "token_logprobs", "top_logprobs", "text_offset"})
      ASSERT_EQ(logprobs[list].size(), entries) << list;
    EXPECT_EQ(logprobs["token_logprobs"].back(), -2.0);
    EXPECT_EQ(logprobs["tokens"].back(), TokenText(TinyModel(), 1));
    EXPECT_EQ(logprobs["text_offset"].back(), TokenText(TinyModel(), 5).size());
    EXPECT_EQ(logprobs["top_logprobs"].back(), (Json{{TokenText(TinyModel(), 1), -2.0}}));
  }
}

}  // namespace
}  // namespace baleen::router
