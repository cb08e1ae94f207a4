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

// An assistant message with calls of these ids.
std::string Calls(std::initializer_list<absl::string_view> ids) {
  std::string calls;
  for (const absl::string_view id : ids) {
    absl::StrAppend(&calls, calls.empty() ? "" : ", ", R"({"id": ")", id,
                    R"(", "type": "function", "function": {"name": "f", "arguments": "{}"}})");
  }
  return absl::StrCat(R"({"role": "assistant", "content": null, "tool_calls": [)", calls, "]}");
}

std::string Result(absl::string_view id, absl::string_view content) {
  return absl::StrCat(R"({"role": "tool", "tool_call_id": ")", id, R"(", "content": ")", content,
                      "\"}");
}

TEST(ChatRequest, ReadsRolesAndContentForms) {
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

TEST(ChatRequest, PutsResultsIntoTheOrderOfTheCalls) {
  const auto prompt =
      ParseList(absl::StrCat(kUserMessage, ",", Calls({"a", "b", "c"}), ",", Result("c", "C"), ",",
                             Result("a", "A"), ",", Result("b", "B")));
  BALEEN_ASSERT_OK(prompt);
  EXPECT_EQ(prompt->messages[2].content, "A");
  EXPECT_EQ(prompt->messages[3].content, "B");
  EXPECT_EQ(prompt->messages[4].content, "C");
}

TEST(ChatRequest, ResultsWithoutIdsAreTakenInOrder) {
  const auto prompt = ParseList(absl::StrCat(kUserMessage, ",", Calls({"a", "b"}), R"(,
      {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"})"));
  BALEEN_ASSERT_OK(prompt);
  EXPECT_EQ(prompt->messages[2].content, "1");
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
  EXPECT_THAT(ParseList(kUserMessage, R"("parallel_tool_calls": false)")->ignored_fields,
              ElementsAre("parallel_tool_calls"));
}

TEST(ChatRequest, ReadsCallArguments) {
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

TEST(ChatRequest, RefusesBadMessages) {
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
      {assistant(R"({"function": {"name": "f"}})"), "",
       "messages[1].tool_calls[0].function.arguments: required"},
      {assistant(R"({"function": {"name": "f", "arguments": {}}})"), "",
       "messages[1].tool_calls[0].function.arguments: must be a string that holds"},
      {assistant(R"({"function": {"name": "f", "arguments": "[]"}})"), "",
       "messages[1].tool_calls[0].function.arguments: must be a string that holds"},
      {assistant(R"({"function": {"name": "f", "arguments": "{\"a\": }"}})"), "",
       "messages[1].tool_calls[0].function.arguments: not valid JSON: byte 6"},
  });
}

TEST(ChatRequest, RefusesBadConversations) {
  const std::string user = absl::StrCat(kUserMessage, ",");
  ExpectErrors({
      {Result("a", "r"), "", "messages[0]: a tool result must follow"},
      {user + Result("a", "r"), "", "messages[1]: a tool result must follow"},
      {user + Calls({"a"}), "", "messages[1].tool_calls: 1 calls but 0 tool results follow"},
      {user + Calls({"a"}) + "," + kUserMessage, "", "messages[1].tool_calls: 1 calls but 0"},
      {user + Calls({"a", "b"}) + "," + Result("b", "r"), "",
       "messages[1].tool_calls: 2 calls but 1"},
      {user + Calls({"a"}) + "," + Result("x", "r"), "",
       "messages[2].tool_call_id: the assistant's"},
      {user + Calls({"a"}) + "," + Result("a", "r") + "," + Result("a", "r"), "",
       "messages[3]: more tool results than calls"},
      {user + Calls({"a", "b"}) + "," + Result("a", "r") + "," + Result("a", "r"), "",
       "messages[3].tool_call_id: a second result"},
      {user + Calls({"a", "a"}) + "," + Result("a", "r") + "," + Result("a", "r"), "",
       "messages[1].tool_calls[1].id: two calls have the same id"},
      {user + Calls({"a", "b"}) + "," + Result("a", "r") + R"(, {"role": "tool", "content": "r"})",
       "", "messages[2].tool_call_id: give it in all"},
      {user + R"({"role": "assistant", "content": "x"})", "",
       "messages[1].role: the last message is the assistant's"},
      {R"({"role": "system", "content": "x"})", "", "messages[0].role: the last message must be"},
      {kUserMessage, R"("continue_final_message": true)", "messages[0].role: only an assistant"},
      {user + Calls({"a"}), R"("continue_final_message": true)",
       "messages[1].tool_calls: a message that makes calls"},
      {user + R"({"role": "assistant", "content": "x", "prefix": true}, )" + kUserMessage, "",
       "messages[1].prefix: only the last message"},
  });
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
