#include "router/chat/output_parser.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "outputs.h"

namespace baleen::chat {
namespace {

std::string Content(absl::string_view text) { return Parse(text, {.parse_tool_calls = true}); }
std::string Thinking(absl::string_view text) {
  return Parse(text, {.starts_in_reasoning = true, .parse_tool_calls = true});
}

constexpr char kTwoCalls[] =
    "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"get_temp\">\n"
    "<｜DSML｜parameter name=\"city\" string=\"true\">Oslo</｜DSML｜parameter>\n"
    "<｜DSML｜parameter name=\"days\" string=\"false\">2</｜DSML｜parameter>\n"
    "</｜DSML｜invoke>\n<｜DSML｜invoke "
    "name=\"now\">\n\n</｜DSML｜invoke>\n</｜DSML｜function_calls>";
constexpr char kTwoCallsParsed[] = "get_temp({\"city\": \"Oslo\", \"days\": 2})now({})";

TEST(OutputParser, ReasoningAndContent) {
  EXPECT_EQ(Thinking("Let me see.</think>42"), "Let me see.|42|");
  EXPECT_EQ(Thinking("never closed </thin"), "never closed </thin||");
  EXPECT_EQ(Thinking("a\n\n</think>\n\nb\n\n"), "a\n\n|\n\nb\n\n|");
  EXPECT_EQ(Content("plain <b>text</b>\n\n<｜DSML"), "|plain <b>text</b>\n\n<｜DSML|");
  EXPECT_EQ(Content(""), "||");
}

TEST(OutputParser, DropsRepeatedThinkTagsAtTheStartOnly) {
  EXPECT_EQ(Content("</think>hi </think>"), "|hi </think>|");
  EXPECT_EQ(Thinking("<think>a<think></think></think>b"), "a<think>|b|");
  EXPECT_EQ(Thinking("</think>b"), "|b|");
}

TEST(OutputParser, ToolCallsAfterContentAndReasoning) {
  EXPECT_EQ(Content(kTwoCalls), absl::StrCat("||", kTwoCallsParsed));
  EXPECT_EQ(Content(absl::StrCat("Let me look.", kTwoCalls)),
            absl::StrCat("|Let me look.|", kTwoCallsParsed));
  EXPECT_EQ(Thinking(absl::StrCat("Two.</think>", kTwoCalls)),
            absl::StrCat("Two.||", kTwoCallsParsed));
}

TEST(OutputParser, AToolBlockEndsReasoning) {
  EXPECT_EQ(Thinking(absl::StrCat("I call it now", kTwoCalls)),
            absl::StrCat("I call it now||", kTwoCallsParsed));
}

TEST(OutputParser, OnlyTwoLineBreaksBelongToTheTag) {
  EXPECT_EQ(Content(absl::StrCat("a\n", kTwoCalls)), absl::StrCat("|a\n|", kTwoCallsParsed));
  EXPECT_EQ(Content(absl::StrCat("a", absl::string_view(kTwoCalls).substr(1))),
            absl::StrCat("|a|", kTwoCallsParsed));
  EXPECT_EQ(Content(absl::StrCat("a", absl::string_view(kTwoCalls).substr(2))),
            absl::StrCat("|a|", kTwoCallsParsed));
}

TEST(OutputParser, WithoutToolsTheBlockIsContent) {
  EXPECT_EQ(Parse(kTwoCalls, {}), absl::StrCat("|", kTwoCalls, "|"));
}

TEST(OutputParser, AnOpeningTagWithoutACallIsText) {
  EXPECT_EQ(Content("The tag <｜DSML｜function_calls> opens it."),
            "|The tag <｜DSML｜function_calls> opens it.|");
  EXPECT_EQ(Content("\n\n<｜DSML｜function_calls>\n</｜DSML｜function_calls>x"),
            "|\n\n<｜DSML｜function_calls>\n</｜DSML｜function_calls>x|");
  EXPECT_EQ(Thinking("A <｜DSML｜function_calls> block?</think>Yes"),
            "A <｜DSML｜function_calls> block?|Yes|");
  EXPECT_EQ(Content(absl::StrCat("Tag: <｜DSML｜function_calls>.", kTwoCalls)),
            absl::StrCat("|Tag: <｜DSML｜function_calls>.|", kTwoCallsParsed));
  const std::string endless =
      absl::StrCat("<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"", std::string(2000, 'x'));
  EXPECT_EQ(Content(endless), absl::StrCat("|", endless, "|"));
}

TEST(OutputParser, HoldsBackNothingButBeginningsOfTags) {
  OutputParser parser({.parse_tool_calls = true});
  const auto push = [&](absl::string_view text) {
    OutputEvents events;
    parser.PushText(text, &events);
    return events.empty() ? std::string() : events[0].text;
  };
  EXPECT_EQ(push("a"), "a");
  EXPECT_EQ(push("b."), "b.");
  EXPECT_EQ(push("c\n"), "c");
  EXPECT_EQ(push("\n"), "");
  EXPECT_EQ(push("\n"), "\n");
  EXPECT_EQ(push("<"), "");
  EXPECT_EQ(push("p>"), "\n\n<p>");
}

class TokenTest : public ::testing::Test {
 protected:
  // Ids of markers; 99 is any other token.
  const std::vector<AddedToken> tokens_ = {{0, "<｜begin▁of▁sentence｜>", true},
                                           {1, "<｜end▁of▁sentence｜>", true},
                                           {10, "<think>", false},
                                           {11, "</think>", false},
                                           {12, "｜DSML｜", true},
                                           {13, "<｜tool▁calls▁begin｜>", true}};
  std::string ParseTokens(bool reasoning, const std::vector<std::pair<int, std::string>>& pieces) {
    const MarkerTable markers(tokens_, StyleOf(tokens_));
    OutputParser parser({.starts_in_reasoning = reasoning, .parse_tool_calls = true}, &markers);
    OutputEvents events;
    for (const auto& [id, text] : pieces) parser.PushToken(id, text, &events);
    const OutputEnd end = parser.Finish(&events);
    return Describe(events, end);
  }
};

TEST_F(TokenTest, StyleFollowsTheTokenizer) {
  EXPECT_EQ(StyleOf(tokens_), ChatStyle::kV32);
  EXPECT_EQ(StyleOf(std::vector<AddedToken>{{13, "<｜tool▁calls▁begin｜>", true}}),
            ChatStyle::kV31);
}

TEST_F(TokenTest, OnlyTheTokenEndsReasoning) {
  EXPECT_EQ(ParseTokens(true, {{99, "say </think> now"}, {11, "</think>"}, {99, "ok"}}),
            "say </think> now|ok|");
  EXPECT_EQ(ParseTokens(
                true, {{10, "<think>"}, {99, "a"}, {11, "</think>"}, {11, "</think>"}, {99, "b"}}),
            "a|b|");
  EXPECT_EQ(ParseTokens(false, {{11, "</think>"}, {99, "b"}, {11, "</think>"}}), "|b</think>|");
}

TEST_F(TokenTest, SpecialTokensAreInvisibleExceptThoseOfToolCalls) {
  EXPECT_EQ(ParseTokens(false, {{99, "a"},
                                {0, "<｜begin▁of▁sentence｜>"},
                                {13, "<｜tool▁calls▁begin｜>"},
                                {99, "b"},
                                {1, "<｜end▁of▁sentence｜>"}}),
            "|ab|");
  EXPECT_EQ(ParseTokens(false, {{99, ".\n\n"},
                                {99, "<"},
                                {12, "｜DSML｜"},
                                {99, "function_calls>\n<"},
                                {12, "｜DSML｜"},
                                {99, "invoke name=\"f\">\n\n</"},
                                {12, "｜DSML｜"},
                                {99, "invoke>"},
                                {1, "<｜end▁of▁sentence｜>"}}),
            "|.|f({})");
}

TEST_F(TokenTest, TextBeforeAMarkerInTheSamePieceIsKept) {
  // A detokeniser gives up an unfinished character only when the next token shows it.
  EXPECT_EQ(
      ParseTokens(true, {{99, "a"}, {11, "\uFFFD</think>"}, {1, "\uFFFD<｜end▁of▁sentence｜>"}}),
      "a\uFFFD|\uFFFD|");
}

TEST_F(TokenTest, TheEndOfReasoningEndsAQuotedTag) {
  EXPECT_EQ(ParseTokens(true, {{99, "Tag <"},
                               {12, "｜DSML｜"},
                               {99, "function_calls>\n"},
                               {11, "</think>"},
                               {99, "ok"}}),
            "Tag <｜DSML｜function_calls>\n|ok|");
}

}  // namespace
}  // namespace baleen::chat
