#include "gmock/gmock.h"
#include "router/api/response_writer.h"
#include "router/api/tiny_model.h"

namespace baleen::router {
namespace {

using chat::OutputEvent;
using Kind = chat::OutputEvent::Kind;

class ChatWriterTest : public ::testing::Test {
 protected:
  ChatWriterTest() { request_.prompts.push_back(std::make_shared<std::vector<uint32_t>>(3, 5u)); }
  std::unique_ptr<ResponseWriter> Writer() {
    return MakeChatWriter(
        {.id = "chatcmpl-1", .created = 7, .model = &TinyModel(), .request = &request_});
  }
  static OutputDelta Delta(std::vector<OutputEvent> events) {
    OutputDelta delta;
    delta.events = std::move(events);
    return delta;
  }
  Json Choice(size_t event) { return Json::parse(events_.at(event))["choices"][0]; }

  ClientRequest request_;
  ResponseWriter::Events events_;
};

TEST_F(ChatWriterTest, TheRoleComesOnceWithTheFirstText) {
  request_.stream = true;
  const auto writer = Writer();
  writer->OnDelta(0, Delta({}), {}, &events_);
  EXPECT_TRUE(events_.empty());  // never before a token
  writer->OnDelta(0, Delta({{.kind = Kind::kContent, .text = "Hi"}}), {}, &events_);
  writer->OnDelta(0, Delta({{.kind = Kind::kContent, .text = "!"}}), {}, &events_);
  EXPECT_EQ(Choice(0)["delta"], Json::parse(R"({"role":"assistant","content":"Hi"})"));
  EXPECT_EQ(Choice(1)["delta"], Json::parse(R"({"content":"!"})"));
}

TEST_F(ChatWriterTest, AnAnswerWithoutTextStillHasARole) {
  request_.stream = true;
  const auto writer = Writer();
  writer->OnEnding(0, {.finish_reason = "stop"}, {}, &events_);
  EXPECT_EQ(Choice(0)["delta"]["role"], "assistant");
  EXPECT_EQ(Choice(0)["finish_reason"], "stop");
}

TEST_F(ChatWriterTest, TheTextOfAGivenUpCallIsContent) {
  OutputEnding ending{.finish_reason = "length"};
  ending.last = Delta({{.kind = Kind::kContent, .text = "so "}});
  ending.parsed.incomplete_call = true;
  ending.parsed.unparsed = "<call";
  Writer()->OnEnding(0, ending, {}, &events_);
  EXPECT_TRUE(events_.empty());
  request_.stream = true;
  Writer()->OnEnding(0, ending, {}, &events_);
  EXPECT_EQ(Choice(0)["delta"]["content"], "so <call");
}

TEST_F(ChatWriterTest, OneStepIsOneEventWhateverItHolds) {
  request_.stream = true;
  const auto writer = Writer();
  writer->OnDelta(0,
                  Delta({{.kind = Kind::kReasoning, .text = "r"},
                         {.kind = Kind::kContent, .text = "c"},
                         {.kind = Kind::kToolCallBegin, .call = 0, .text = "f"},
                         {.kind = Kind::kToolArguments, .call = 0, .text = "{"},
                         {.kind = Kind::kToolArguments, .call = 0, .text = "}"},
                         {.kind = Kind::kToolCallEnd, .call = 0},
                         {.kind = Kind::kToolCallBegin, .call = 1, .text = "g"}}),
                  {}, &events_);
  ASSERT_EQ(events_.size(), 1u);
  const Json delta = Choice(0)["delta"];
  EXPECT_EQ(delta["reasoning_content"], "r");
  EXPECT_EQ(delta["content"], "c");
  ASSERT_EQ(delta["tool_calls"].size(), 2u);
  EXPECT_EQ(delta["tool_calls"][0]["function"]["name"], "f");
  EXPECT_EQ(delta["tool_calls"][0]["function"]["arguments"], "{}");
  EXPECT_EQ(delta["tool_calls"][1]["index"], 1);
  EXPECT_NE(delta["tool_calls"][0]["id"], delta["tool_calls"][1]["id"]);
}

TEST_F(ChatWriterTest, LaterArgumentsCarryOnlyTheIndex) {
  request_.stream = true;
  const auto writer = Writer();
  writer->OnDelta(0, Delta({{.kind = Kind::kToolCallBegin, .call = 0, .text = "f"}}), {}, &events_);
  writer->OnDelta(0, Delta({{.kind = Kind::kToolArguments, .call = 0, .text = "{\"a"}}), {},
                  &events_);
  EXPECT_EQ(Choice(1)["delta"],
            Json::parse(R"({"tool_calls":[{"index":0,"function":{"arguments":"{\"a"}}]})"));
}

TEST_F(ChatWriterTest, TheWholeMessageHasNullContentBesideCalls) {
  const auto writer = Writer();
  writer->OnDelta(0,
                  Delta({{.kind = Kind::kToolCallBegin, .call = 0, .text = "f"},
                         {.kind = Kind::kToolArguments, .call = 0, .text = "{}"},
                         {.kind = Kind::kToolCallEnd, .call = 0}}),
                  {}, &events_);
  OutputEnding ending;
  ending.finish_reason = "tool_calls";
  ending.parsed.complete_calls = 1;
  writer->OnEnding(0, ending, {}, &events_);
  const Json body = Json::parse(writer->Body({}));
  const Json message = body["choices"][0]["message"];
  EXPECT_TRUE(message["content"].is_null());
  EXPECT_EQ(message["tool_calls"][0]["type"], "function");
  EXPECT_EQ(message["tool_calls"][0]["function"]["arguments"], "{}");
  EXPECT_TRUE(body["choices"][0]["logprobs"].is_null());
}

}  // namespace
}  // namespace baleen::router
