#include "router/chat/conversation.h"

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

TEST(Conversation, PutsResultsIntoTheOrderOfTheCalls) {
  const auto prompt =
      ParseList(absl::StrCat(kUserMessage, ",", Calls({"a", "b", "c"}), ",", Result("c", "C"), ",",
                             Result("a", "A"), ",", Result("b", "B")));
  BALEEN_ASSERT_OK(prompt);
  EXPECT_EQ(prompt->messages[2].content, "A");
  EXPECT_EQ(prompt->messages[3].content, "B");
  EXPECT_EQ(prompt->messages[4].content, "C");
}

TEST(Conversation, ResultsWithoutIdsAreTakenInOrder) {
  const auto prompt = ParseList(absl::StrCat(kUserMessage, ",", Calls({"a", "b"}), R"(,
      {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"})"));
  BALEEN_ASSERT_OK(prompt);
  EXPECT_EQ(prompt->messages[2].content, "1");
}

TEST(Conversation, RefusesBadConversations) {
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

}  // namespace
}  // namespace baleen::chat
