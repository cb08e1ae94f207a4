#include "router/chat/chat_encoder.h"

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "gmock/gmock.h"
#include "router/chat/chat_request.h"
#include "router/chat/python_json.h"
#include "testing/sha256.h"
#include "testing/status_matchers.h"

namespace baleen::chat {
namespace {

using ::baleen::testing::Sha256Hex;
using ::baleen::testing::StatusIs;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kThinkingOn[] = R"("chat_template_kwargs": {"thinking": true})";
constexpr char kNow[] =
    R"({"type": "function", "function": {"name": "now", "description": "Current time",
        "parameters": {"type": "object", "properties": {}}}})";
constexpr char kGetTemp[] =
    R"({"type": "function", "function": {"name": "get_temp", "description": "Read a thermometer",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"},
        "days": {"type": "integer"}}, "required": ["city"]}}})";
constexpr char kOslo[] =
    R"({"role": "system", "content": "Be brief."},
       {"role": "user", "content": "How warm is it in Oslo and Rome?"},
       {"role": "assistant", "reasoning_content": "Need two readings.", "content": "", "tool_calls": [
         {"id": "1", "type": "function",
          "function": {"name": "get_temp", "arguments": "{\"city\":\"Oslo\",\"days\":2}"}},
         {"id": "2", "type": "function", "function": {"name": "now", "arguments": "{}"}}]},
       {"role": "tool", "tool_call_id": "1", "content": "{\"t\": 3}"},
       {"role": "tool", "tool_call_id": "2", "content": "12:00"})";

absl::StatusOr<EncodedPrompt> Encode(const std::string& body, ChatStyle style = ChatStyle::kV32) {
  BALEEN_ASSIGN_OR_RETURN(const auto json, ParseJson(body));
  BALEEN_ASSIGN_OR_RETURN(const ChatPrompt prompt, ParseChatMessages(json));
  return EncodeChat(prompt, style);
}

std::string Text(const std::string& body, ChatStyle style = ChatStyle::kV32) {
  const auto encoded = Encode(body, style);
  return encoded.ok() ? encoded->text : encoded.status().ToString();
}

std::string Body(absl::string_view messages, absl::string_view more = "") {
  return absl::StrCat("{\"messages\": [", messages, "]", more.empty() ? "" : ", ", more, "}");
}

// The worked examples of the format, by the hash of the prompt.
TEST(ChatEncoderV32, OneUserMessage) {
  const std::string hello = R"({"role": "user", "content": "hello"})";
  EXPECT_EQ(Sha256Hex(Text(Body(hello))),
            "5ec6ff56a432b916c342465ba509744d13252c6c92ff10b28157b8213b4d4699");
  EXPECT_EQ(Text(Body(hello)), "<｜begin▁of▁sentence｜><｜User｜>hello<｜Assistant｜></think>");
  EXPECT_EQ(Sha256Hex(Text(Body(hello, kThinkingOn))),
            "35670d0fcfe106b6b61e14f28fa5b7a787bf2d76ebf0c2664daa244fb4254a4b");
  EXPECT_FALSE(Encode(Body(hello))->starts_in_reasoning);
  EXPECT_TRUE(Encode(Body(hello, kThinkingOn))->starts_in_reasoning);
}

TEST(ChatEncoderV32, ForgetsEarlierReasoning) {
  EXPECT_EQ(Sha256Hex(Text(Body(R"({"role": "system", "content": "Be brief."},
      {"role": "user", "content": "hello"},
      {"role": "assistant", "content": "Hi!", "reasoning_content": "greet"},
      {"role": "user", "content": "1+1=?"})",
                                kThinkingOn))),
            "9b707639277772c1cbabb282cfcad28e3d1c47cee8a9033d50e6cd80166aa4d2");
}

TEST(ChatEncoderV32, ToolsCallsAndResults) {
  const std::string tools = absl::StrCat("\"tools\": [", kGetTemp, ",", kNow, "]");
  const std::string thinking = Text(Body(kOslo, absl::StrCat(tools, ", ", kThinkingOn)));
  EXPECT_EQ(thinking.size(), 1999u);
  EXPECT_EQ(Sha256Hex(thinking),
            "35f6c7ee34d47fb9f7d91eb7e3f08ac3c5440c2e7c8e7d8d0e9fa4fdf25774f0");
  const std::string chat = Text(Body(kOslo, tools));
  EXPECT_EQ(chat.size(), 1975u);
  EXPECT_EQ(Sha256Hex(chat), "645614b10349196464c8b74813a96d4aaec2bc226e11f067f4cff25a8e52f41e");
}

TEST(ChatEncoderV32, ANewUserMessageRewritesTheToolTurn) {
  const std::string messages = absl::StrCat(kOslo, R"(,
      {"role": "assistant", "reasoning_content": "3 degrees.", "content": "Oslo: 3."},
      {"role": "user", "content": "Thanks"})");
  const std::string more = absl::StrCat("\"tools\": [", kGetTemp, ",", kNow, "], ", kThinkingOn);
  EXPECT_EQ(Text(Body(messages, more)).size(), 2052u);
  EXPECT_EQ(Sha256Hex(Text(Body(messages, more))),
            "bfc8f34a5ad57f98bdb06ead36671257a05fd19a4534fd46f847ca34858ac35e");
}

TEST(ChatEncoderV32, ResponseFormat) {
  EXPECT_EQ(Sha256Hex(Text(Body(R"({"role": "system", "content": "S"},
                                   {"role": "user", "content": "x"})",
                                R"("response_format": {"type":"json_object"})"))),
            "db565b3c962d85f8e63d6e575e07855beb5ce59715614a4ff844402b395402e7");
}

TEST(ChatEncoderV32, DeveloperMessageWithItsOwnTools) {
  const std::string text = Text(
      Body(absl::StrCat(R"({"role": "developer", "content": "find x", "tools": [)", kNow, "]}"),
           kThinkingOn));
  EXPECT_EQ(Sha256Hex(text), "49470a2c0e001d0100751691a48a8d2238c77e3e596920252f40c99641daaa14");
}

TEST(ChatEncoderV32, ToolsBlockWithoutSchemasHasTheOfficialHash) {
  const std::string tool = R"({"name": "n"})";
  std::string text = Text(
      Body(R"({"role": "user", "content": "u"})", R"("tools": [{"function": {"name": "n"}}])"));
  text = text.substr(text.find("## Tools"));
  text.resize(text.find("<｜User｜>u"));
  text.erase(text.find(tool), tool.size());
  EXPECT_EQ(Sha256Hex(text), "8dc0ae780567338a686768374742d8690e8039d3ec6e3649ff94740764f5cca1");
}

TEST(ChatEncoderV32, ToolsWithoutASystemMessageStandInAnEmptyOne) {
  const std::string text =
      Text(Body(R"({"role": "user", "content": "u"})", absl::StrCat("\"tools\": [", kNow, "]")));
  EXPECT_THAT(text, StartsWith("<｜begin▁of▁sentence｜>\n\n## Tools\n\n"));
  EXPECT_THAT(text, EndsWith("</functions>\n<｜User｜>u<｜Assistant｜></think>"));
}

TEST(ChatEncoderV32, ToolsComeBeforeTheResponseFormat) {
  const std::string text = Text(
      Body(R"({"role": "system", "content": "S"}, {"role": "user", "content": "u"})",
           absl::StrCat(R"("response_format": {"type": "json_object"}, "tools": [)", kNow, "]")));
  EXPECT_THAT(text, StartsWith("<｜begin▁of▁sentence｜>S\n\n## Tools\n\n"));
  EXPECT_THAT(text, HasSubstr("</functions>\n\n\n## Response Format:\n\n"));
}

TEST(ChatEncoderV32, SchemasAndArgumentsKeepNumbersAndKeyOrder) {
  const std::string text = Text(Body(
      R"({"role": "user", "content": "u"},
         {"role": "assistant", "tool_calls": [{"function": {"name": "f",
          "arguments": "{\"z\":1.0,\"a\":[1e-5,123456789012345678901234567890],\"s\":\"q\\\"<é\\n\"}"}}]},
         {"role": "tool", "content": "r"})",
      R"("tools": [{"function": {"strict":true,"name":"f","x":1E16}}])"));
  EXPECT_THAT(text, HasSubstr(R"({"strict": true, "name": "f", "x": 1e+16})"));
  EXPECT_THAT(
      text, HasSubstr("name=\"z\" string=\"false\">1.0</｜DSML｜parameter>\n"
                      "<｜DSML｜parameter name=\"a\" string=\"false\">"
                      "[1e-05, 123456789012345678901234567890]</｜DSML｜parameter>\n"
                      "<｜DSML｜parameter name=\"s\" string=\"true\">q\"<é\n</｜DSML｜parameter>"));
}

TEST(ChatEncoderV32, DropsEarlierDeveloperMessagesOnlyWhenReasoningIsDropped) {
  const std::string messages = R"({"role": "developer", "content": "one"},
      {"role": "assistant", "content": "a", "reasoning": "r"}, {"role": "user", "content": "two"})";
  EXPECT_EQ(Text(Body(messages, kThinkingOn)),
            "<｜begin▁of▁sentence｜>a<｜end▁of▁sentence｜><｜User｜>two<｜Assistant｜><think>");
  EXPECT_THAT(Text(Body(messages)), HasSubstr("message is: one<｜Assistant｜></think>a<｜end"));
  EXPECT_THAT(
      Text(Body(messages,
                R"("chat_template_kwargs": {"enable_thinking": true, "drop_thinking": false})")),
      HasSubstr("message is: one<｜Assistant｜></think>a<｜end"));
}

TEST(ChatEncoderV32, ContinuesTheFinalAssistantMessage) {
  const std::string messages = R"({"role": "user", "content": "u"},
      {"role": "assistant", "content": "Once upon", "reasoning_content": "story"})";
  const auto chat = Encode(Body(messages, R"("continue_final_message": true)"));
  BALEEN_ASSERT_OK(chat);
  EXPECT_EQ(chat->text, "<｜begin▁of▁sentence｜><｜User｜>u<｜Assistant｜></think>Once upon");
  const auto thinking =
      Encode(Body(messages, absl::StrCat(R"("continue_final_message": true, )", kThinkingOn)));
  BALEEN_ASSERT_OK(thinking);
  EXPECT_THAT(thinking->text, EndsWith("<｜Assistant｜><think>story</think>Once upon"));
  EXPECT_FALSE(thinking->starts_in_reasoning);
}

TEST(ChatEncoderV32, EqualsThePythonRendererOnRandomRequests) {
  std::ifstream file(BALEEN_SOURCE_DIR "/tests/router/chat/chat_golden.jsonl");
  std::string request, hash;
  int count = 0;
  for (; std::getline(file, request) && std::getline(file, hash); ++count) {
    ASSERT_EQ(Sha256Hex(Text(request)), hash) << request << "\n" << Text(request);
  }
  EXPECT_EQ(count, 200);
}

TEST(ChatEncoderV31, PlainTurnsAndThinking) {
  const std::string hello = R"({"role": "user", "content": "hello"})";
  EXPECT_EQ(Text(Body(hello, kThinkingOn), ChatStyle::kV31),
            "<｜begin▁of▁sentence｜><｜User｜>hello<｜Assistant｜><think>");
  EXPECT_TRUE(Encode(Body(hello, kThinkingOn), ChatStyle::kV31)->starts_in_reasoning);
  EXPECT_EQ(Text(Body(R"({"role": "system", "content": "A"}, {"role": "user", "content": "u"},
                         {"role": "assistant", "content": "x</think>y"},
                         {"role": "system", "content": "B"}, {"role": "user", "content": "v"})"),
                 ChatStyle::kV31),
            "<｜begin▁of▁sentence｜>A\n\nB<｜User｜>u<｜Assistant｜></think>y<｜end▁of▁sentence｜>"
            "<｜User｜>v<｜Assistant｜></think>");
}

TEST(ChatEncoderV31, ToolsCallsAndResults) {
  const std::string text =
      Text(Body(absl::StrCat(kOslo, R"(, {"role": "assistant", "content": "Oslo: 3."},
                                   {"role": "user", "content": "Thanks"})"),
                absl::StrCat("\"tools\": [", kGetTemp, ",", kNow, "]")),
           ChatStyle::kV31);
  EXPECT_THAT(text,
              StartsWith("<｜begin▁of▁sentence｜>Be brief.\n\n## Tools\nYou have access to the "
                         "following tools:\n\n### get_temp\nDescription: Read a thermometer\n\n"
                         "Parameters: {\"type\": \"object\", \"properties\": {\"city\": "));
  EXPECT_THAT(text, HasSubstr("\"properties\": {}}\n\nIMPORTANT: ALWAYS adhere"));
  EXPECT_THAT(text, HasSubstr("{{additional_tool_calls}}<｜tool▁calls▁end｜>\n\nWhere:\n"));
  EXPECT_THAT(
      text,
      EndsWith("without separators or spaces\n<｜User｜>How warm is it in Oslo and Rome?"
               "<｜Assistant｜></think><｜tool▁calls▁begin｜>"
               "<｜tool▁call▁begin｜>get_temp<｜tool▁sep｜>{\"city\":\"Oslo\",\"days\":2}<"
               "｜tool▁call▁end｜>"
               "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
               "<｜end▁of▁sentence｜><｜tool▁output▁begin｜>{\"t\": 3}<｜tool▁output▁end｜>"
               "<｜tool▁output▁begin｜>12:00<｜tool▁output▁end｜>Oslo: 3.<｜end▁of▁sentence｜>"
               "<｜User｜>Thanks<｜Assistant｜></think>"));
}

TEST(ChatEncoderV31, NothingFollowsToolOutputs) {
  const auto encoded = Encode(Body(kOslo, kThinkingOn), ChatStyle::kV31);
  BALEEN_ASSERT_OK(encoded);
  EXPECT_THAT(encoded->text, EndsWith("12:00<｜tool▁output▁end｜>"));
  EXPECT_FALSE(encoded->starts_in_reasoning);
}

TEST(ChatEncoderV31, AContinuedMessageIsReasoningWhenThinking) {
  const std::string messages =
      R"({"role": "user", "content": "u"}, {"role": "assistant", "content": "So", "prefix": true})";
  const auto thinking = Encode(Body(messages, kThinkingOn), ChatStyle::kV31);
  BALEEN_ASSERT_OK(thinking);
  EXPECT_THAT(thinking->text, EndsWith("<｜User｜>u<｜Assistant｜><think>So"));
  EXPECT_TRUE(thinking->starts_in_reasoning);
  EXPECT_THAT(Text(Body(messages), ChatStyle::kV31), EndsWith("<｜Assistant｜></think>So"));
}

TEST(ChatEncoderV31, RefusesAResponseFormat) {
  EXPECT_THAT(Encode(Body(R"({"role": "user", "content": "u"})",
                          R"("response_format": {"type": "json_object"})"),
                     ChatStyle::kV31),
              StatusIs(absl::StatusCode::kInvalidArgument, StartsWith("response_format: ")));
}

}  // namespace
}  // namespace baleen::chat
