#include "router/chat/message_parser.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "gmock/gmock.h"
#include "router/chat/chat_request.h"
#include "router/chat/python_json.h"
#include "testing/status_matchers.h"

namespace baleen::chat {
namespace {

using ::baleen::testing::StatusIs;
using ::testing::StartsWith;

constexpr char kUserMessage[] = R"({"role": "user", "content": "u"})";

absl::StatusOr<ChatPrompt> ParseList(absl::string_view messages, absl::string_view more = "") {
  BALEEN_ASSIGN_OR_RETURN(const auto json,
                          ParseJson(absl::StrCat("{\"messages\": [", messages, "]",
                                                 more.empty() ? "" : ", ", more, "}")));
  return ParseChatMessages(json);
}

struct BadCase {
  std::string messages, more, error;
};

void ExpectErrors(std::initializer_list<BadCase> cases) {
  for (const BadCase& c : cases) {
    EXPECT_THAT(ParseList(c.messages, c.more),
                StatusIs(absl::StatusCode::kInvalidArgument, StartsWith(c.error)))
        << c.messages << " " << c.more;
  }
}

TEST(MessageParser, ReadsRolesAndContentForms) {
  const auto prompt = ParseList(
      R"({"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
         {"role": "developer", "content": "d"}, {"role": "assistant", "content": ""},
         {"role": "user", "content": "", "name": "x"})");
  BALEEN_ASSERT_OK(prompt);
  ASSERT_EQ(prompt->messages.size(), 4u);
  EXPECT_EQ(prompt->messages[0].content, "ab");
  EXPECT_EQ(prompt->messages[1].role, Role::kDeveloper);
  EXPECT_EQ(prompt->messages[2].role, Role::kAssistant);
  EXPECT_FALSE(prompt->thinking);
  EXPECT_TRUE(prompt->drop_thinking);
}

TEST(MessageParser, ReadsCallArguments) {
  const auto prompt = ParseList(absl::StrCat(
      kUserMessage, R"(, {"role": "assistant", "tool_calls": [{"function": {"name": "f",
          "arguments": "{\"s\": \"x\", \"n\": 1.50, \"s\": \"y\"}"}}]}, {"role": "tool", "content": "r"})"));
  BALEEN_ASSERT_OK(prompt);
  const std::vector<ToolArgument>& arguments = prompt->messages[1].tool_calls[0].arguments;
  ASSERT_EQ(arguments.size(), 2u);
  EXPECT_EQ(arguments[0].key, "s");
  EXPECT_EQ(arguments[0].value, "y");
  EXPECT_TRUE(arguments[0].is_string);
  EXPECT_EQ(arguments[1].value, "1.5");
  EXPECT_FALSE(arguments[1].is_string);
}

TEST(MessageParser, ArgumentsMayBeAnObjectOrNothing) {
  const auto call = [](absl::string_view member) {
    return ParseList(absl::StrCat(
        kUserMessage, R"(, {"role": "assistant", "tool_calls": [{"function": {"name": "f")", member,
        R"(}}]}, {"role": "tool", "content": "r"})"));
  };
  for (const char* none : {"", R"(, "arguments": null)", R"(, "arguments": "")",
                           R"(, "arguments": {})", R"(, "arguments": "{}")"}) {
    const auto prompt = call(none);
    BALEEN_ASSERT_OK(prompt);
    EXPECT_EQ(prompt->messages[1].tool_calls[0].arguments_json, "{}") << none;
    EXPECT_TRUE(prompt->messages[1].tool_calls[0].arguments.empty()) << none;
  }
  const auto prompt =
      call(R"(,"arguments":{"z":"\u00e9","a":[1,2.50],"n":12345678901234567890123})");
  BALEEN_ASSERT_OK(prompt);
  const ToolCall& object = prompt->messages[1].tool_calls[0];
  EXPECT_EQ(object.arguments_json, R"({"z": "é", "a": [1, 2.5], "n": 12345678901234567890123})");
  ASSERT_EQ(object.arguments.size(), 3u);
  EXPECT_EQ(object.arguments[0].key, "z");
  EXPECT_EQ(object.arguments[0].value, "é");
  EXPECT_TRUE(object.arguments[0].is_string);
  EXPECT_EQ(object.arguments[1].value, "[1, 2.5]");
}

TEST(MessageParser, RefusesBadMessages) {
  const auto assistant = [](absl::string_view call) {
    return absl::StrCat(kUserMessage, R"(, {"role": "assistant", "tool_calls": [)", call, "]}");
  };
  ExpectErrors({
      {"", "", "messages: must not be empty"},
      {"1", "", "messages[0]: must be an object"},
      {R"({"content": "x"})", "", "messages[0].role: required"},
      {R"({"role": 3, "content": "x"})", "", "messages[0].role: must be a string"},
      {R"({"role": "robot", "content": "x"})", "", "messages[0].role: must be system,"},
      {R"({"role": "user"})", "", "messages[0].content: required"},
      {R"({"role": "user", "content": null})", "", "messages[0].content: required"},
      {R"({"role": "user", "content": 5})", "", "messages[0].content: must be a string or a list"},
      {R"({"role": "user", "content": ["x"]})", "", "messages[0].content[0]: must be an object"},
      {R"({"role": "user", "content": [{"type": "image_url"}]})", "",
       "messages[0].content[0].type: only \"text\""},
      {R"({"role": "user", "content": [{"type": "text"}]})", "",
       "messages[0].content[0].text: required"},
      {R"({"role": "developer", "content": ""}, {"role": "user", "content": "u"})", "",
       "messages[0].content: must not be empty"},
      {absl::StrCat(kUserMessage, R"(, {"role": "assistant"})"), "",
       "messages[1].content: required"},
      {absl::StrCat(kUserMessage, R"(, {"role": "assistant", "content": "x", "reasoning": 1})"), "",
       "messages[1].reasoning: must be a string"},
      {assistant("3"), "", "messages[1].tool_calls[0]: must be an object"},
      {assistant(R"({"type": "custom"})"), "", "messages[1].tool_calls[0].type: only"},
      {assistant("{}"), "", "messages[1].tool_calls[0].function: required"},
      {assistant(R"({"function": {}})"), "", "messages[1].tool_calls[0].function.name: required"},
      {assistant(R"({"function": {"name": "a\"b", "arguments": "{}"}})"), "",
       "messages[1].tool_calls[0].function.name: must not contain"},
      {assistant(R"({"function": {"name": "f", "arguments": []}})"), "",
       "messages[1].tool_calls[0].function.arguments: must be a JSON object or"},
      {assistant(R"({"function": {"name": "f", "arguments": "[]"}})"), "",
       "messages[1].tool_calls[0].function.arguments: must be a JSON object or"},
      {assistant(R"({"function": {"name": "f", "arguments": "{\"a\": }"}})"), "",
       "messages[1].tool_calls[0].function.arguments: not valid JSON: byte 6"},
  });
}

}  // namespace
}  // namespace baleen::chat
