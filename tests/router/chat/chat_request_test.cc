#include "router/chat/chat_request.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "gmock/gmock.h"
#include "router/chat/python_json.h"
#include "testing/status_matchers.h"

namespace baleen::chat {
namespace {

using ::baleen::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::StartsWith;

constexpr char kUserMessage[] = R"({"role": "user", "content": "u"})";

absl::StatusOr<ChatPrompt> Parse(const std::string& body) {
  BALEEN_ASSIGN_OR_RETURN(const auto json, ParseJson(body));
  return ParseChatMessages(json);
}

absl::StatusOr<ChatPrompt> ParseList(absl::string_view messages, absl::string_view more = "") {
  return Parse(
      absl::StrCat("{\"messages\": [", messages, "]", more.empty() ? "" : ", ", more, "}"));
}

TEST(ChatRequest, ReadsThinkingSwitches) {
  for (const char* on :
       {R"("chat_template_kwargs": {"thinking": true})",
        R"("chat_template_kwargs": {"enable_thinking": true})",
        R"("thinking": {"type": "enabled"})",
        R"("thinking": {"type": "enabled"}, "chat_template_kwargs": {"thinking": true})"}) {
    const auto prompt = ParseList(kUserMessage, on);
    BALEEN_ASSERT_OK(prompt);
    EXPECT_TRUE(prompt->thinking) << on;
  }
  EXPECT_FALSE(ParseList(kUserMessage, R"("thinking": {"type": "disabled"})")->thinking);
  EXPECT_FALSE(
      ParseList(kUserMessage, R"("thinking": null, "chat_template_kwargs": null)")->thinking);
}

TEST(ChatRequest, ReadsToolsAsSentAndToolChoice) {
  const std::string tools =
      R"("tools": [{"type": "function", "function": {"parameters": {"b":1,"a":2}, "name": "f", "strict": true}}])";
  const auto prompt = ParseList(kUserMessage, tools);
  BALEEN_ASSERT_OK(prompt);
  ASSERT_EQ(prompt->tools.size(), 1u);
  EXPECT_EQ(prompt->tools[0].json,
            R"({"parameters": {"b": 1, "a": 2}, "name": "f", "strict": true})");
  EXPECT_EQ(prompt->tools[0].parameters_json, R"({"b": 1, "a": 2})");
  EXPECT_TRUE(prompt->expects_tool_calls());
  EXPECT_TRUE(ParseList(kUserMessage, absl::StrCat(tools, R"(, "tool_choice": "auto")"))
                  ->expects_tool_calls());
  EXPECT_FALSE(ParseList(kUserMessage, absl::StrCat(tools, R"(, "tool_choice": "none")"))
                   ->expects_tool_calls());
  EXPECT_TRUE(ParseList(kUserMessage, R"("parallel_tool_calls": false)").ok());
  EXPECT_FALSE(ParseList(kUserMessage, R"("parallel_tool_calls": 5)").ok());
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

TEST(ChatRequest, RefusesBadRequestFields) {
  EXPECT_THAT(Parse("[]"), StatusIs(absl::StatusCode::kInvalidArgument, StartsWith("body: ")));
  EXPECT_THAT(Parse("{}"), StatusIs(absl::StatusCode::kInvalidArgument, "messages: required"));
  EXPECT_THAT(Parse(R"({"messages": {}})"),
              StatusIs(absl::StatusCode::kInvalidArgument, "messages: must be a list"));
  const std::string named = R"({"type": "function", "function": {"name": "f"}})";
  ExpectErrors({
      {kUserMessage, R"("tools": {})", "tools: must be a list"},
      {kUserMessage, R"("tools": [{"type": "web_search"}])", "tools[0].type: only"},
      {kUserMessage, R"("tools": [{"function": {"name": ""}}])",
       "tools[0].function.name: must not"},
      {kUserMessage, R"("tools": [{"function": {"name": "f", "parameters": []}}])",
       "tools[0].function.parameters: must be an object"},
      {kUserMessage, R"("tools": [{"function": {"name": "f", "description": 1}}])",
       "tools[0].function.description: must be a string"},
      {kUserMessage, R"("tool_choice": "required")", "tool_choice: only"},
      {kUserMessage, R"("tool_choice": )" + named, "tool_choice: only"},
      {kUserMessage, R"("functions": [])", "functions: not supported"},
      {kUserMessage, R"("parallel_tool_calls": 1)", "parallel_tool_calls: must be true or false"},
      {kUserMessage, R"("response_format": "json")", "response_format: must be an object"},
      {kUserMessage, R"("response_format": {"type": "xml"})",
       "response_format.type: must be text,"},
      {kUserMessage, R"("thinking": true)", "thinking: must be an object"},
      {kUserMessage, R"("thinking": {"type": "on"})", "thinking.type: must be enabled"},
      {kUserMessage, R"("chat_template_kwargs": [])", "chat_template_kwargs: must be an object"},
      {kUserMessage, R"("chat_template_kwargs": {"thinking": "yes"})",
       "chat_template_kwargs.thinking: must be true or false"},
      {kUserMessage, R"("chat_template_kwargs": {"thinking": true, "enable_thinking": false})",
       "chat_template_kwargs.enable_thinking: contradicts chat_template_kwargs.thinking"},
      {kUserMessage, R"("add_generation_prompt": false)", "add_generation_prompt: can be false"},
      {R"({"role": "system", "content": "s", "tools": [{"function": {"name": "f"}}]}, )" +
           std::string(kUserMessage),
       R"("tools": [{"function": {"name": "g"}}])", "tools: given in the request and in"},
  });
}

}  // namespace
}  // namespace baleen::chat
