#include "router/chat/tool_block_parser.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "outputs.h"

namespace baleen::chat {
namespace {

std::string Content(absl::string_view text) { return Parse(text, {.parse_tool_calls = true}); }
std::string V31(absl::string_view text) {
  return Parse(text, {.style = ChatStyle::kV31, .parse_tool_calls = true});
}

constexpr char kTwoCalls[] =
    "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"get_temp\">\n"
    "<｜DSML｜parameter name=\"city\" string=\"true\">Oslo</｜DSML｜parameter>\n"
    "<｜DSML｜parameter name=\"days\" string=\"false\">2</｜DSML｜parameter>\n"
    "</｜DSML｜invoke>\n<｜DSML｜invoke "
    "name=\"now\">\n\n</｜DSML｜invoke>\n</｜DSML｜function_calls>";
constexpr char kTwoCallsParsed[] = "get_temp({\"city\": \"Oslo\", \"days\": 2})now({})";

// A block with one call `f` of this body.
std::string Call(absl::string_view body) {
  return absl::StrCat("\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n", body,
                      "\n</｜DSML｜invoke>\n</｜DSML｜function_calls>");
}
std::string Parameter(absl::string_view key, absl::string_view is_string, absl::string_view value) {
  return absl::StrCat("<｜DSML｜parameter name=\"", key, "\" string=\"", is_string, "\">", value,
                      "</｜DSML｜parameter>");
}

TEST(DsmlBlockParser, StringValuesAreEscapedAndTakenVerbatim) {
  EXPECT_EQ(Content(Call(Parameter("k\\\n", "true", " \"q\" \\ <b>\n\té｜</｜DSML｜x "))),
            "||f({\"k\\\\\\n\": \" \\\"q\\\" \\\\ <b>\\n\\té｜</｜DSML｜x \"})");
  EXPECT_EQ(Content(Call(Parameter("k", "true", ""))), "||f({\"k\": \"\"})");
}

TEST(DsmlBlockParser, OtherValuesAreVerbatimJsonOrBecomeStrings) {
  EXPECT_EQ(Content(Call(Parameter("k", "false", "{\"a\":  [1.0, 1e5,null]} "))),
            "||f({\"k\": {\"a\":  [1.0, 1e5,null]} })");
  EXPECT_EQ(Content(Call(Parameter("k", "false", "Oslo \"x\""))),
            "||f({\"k\": \"Oslo \\\"x\\\"\"})");
  EXPECT_EQ(Content(Call(Parameter("k", "false", "NaN"))), "||f({\"k\": \"NaN\"})");
  EXPECT_EQ(Content(Call(Parameter("k", "false", ""))), "||f({\"k\": \"\"})");
  // Without a usable attribute: JSON if it is, else a string.
  EXPECT_EQ(Content(Call("<｜DSML｜parameter name=\"k\">5</｜DSML｜parameter>"
                         "<｜DSML｜parameter name=\"l\" string=\"maybe\">x</｜DSML｜parameter>")),
            "||f({\"k\": 5, \"l\": \"x\"})");
}

TEST(DsmlBlockParser, TheLastOfRepeatedKeysCounts) {
  const std::string text =
      Call(absl::StrCat(Parameter("k", "true", "old"), "\n", Parameter("l", "false", "1"), "\n",
                        Parameter("k", "true", "new")));
  EXPECT_EQ(Content(text), "||f({\"k\": \"new\", \"l\": 1})");
  // A stream cannot take back the first value; readers of JSON keep the last.
  OutputParser parser({.parse_tool_calls = true});
  OutputEvents events;
  parser.PushText(text, &events);
  EXPECT_EQ(events[1].text, "{\"k\": \"old\", \"l\": 1, \"k\": \"new\"}");
  EXPECT_TRUE(events[2].repeated_keys);
}

TEST(DsmlBlockParser, ToleratesMissingLineBreaksAndTags) {
  EXPECT_EQ(Content("<｜DSML｜function_calls><｜DSML｜invoke name=\"f\">"
                    "<｜DSML｜parameter name=\"a\" string=\"true\">x</｜DSML｜parameter>"
                    "<｜DSML｜parameter name=\"b\" string=\"false\">1</｜DSML｜parameter>"
                    "</｜DSML｜invoke><｜DSML｜invoke name=\"g\"></｜DSML｜invoke>"),
            "||f({\"a\": \"x\", \"b\": 1})g({})");
  EXPECT_EQ(
      Content(
          "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\"/><｜DSML｜invoke name=\"g\" />"),
      "||f({})g({})");
  // The end of a call is missing, but the next tag shows it.
  EXPECT_EQ(
      Content("<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜invoke name=\"g\">\n"
              "</｜DSML｜function_calls>"),
      "||f({})g({})");
  EXPECT_EQ(
      Content(
          "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\"></｜DSML｜invoke></｜DSML｜func"),
      "||f({})");
}

TEST(DsmlBlockParser, AcceptsAJsonObjectForTheParameters) {
  EXPECT_EQ(Content(Call("{\"a\": 1, \"b\": \"<x>\"}")), "||f({\"a\": 1, \"b\": \"<x>\"})");
}

TEST(DsmlBlockParser, ACallWithAnyOtherBodyIsText) {
  for (const char* body : {"{\"a\": oops}", "Oslo, please", "[1]", "\"x\"", "5", "{} {}", "<b>",
                           "<｜DSML｜parameter k>5</｜DSML｜parameter>"}) {
    EXPECT_EQ(Content(Call(body)), absl::StrCat("|", Call(body), "|")) << body;
    // After a call it goes where what cannot be streamed goes: the end of the content.
    const std::string invoke =
        absl::StrCat("<｜DSML｜invoke name=\"g\">\n", body, "\n</｜DSML｜invoke>");
    EXPECT_EQ(
        Content(absl::StrCat("<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\"/>\n", invoke,
                             "\n<｜DSML｜invoke name=\"h\"/>\n", "</｜DSML｜function_calls>")),
        absl::StrCat("||f({})h({})|text:", invoke))
        << body;
  }
  // Where the next tag shows the end of the call.
  EXPECT_EQ(Content("<｜DSML｜function_calls><｜DSML｜invoke name=\"f\"/><｜DSML｜invoke "
                    "name=\"g\">x<｜DSML｜invoke name=\"h\"/></｜DSML｜function_calls>"),
            "||f({})h({})|text:<｜DSML｜invoke name=\"g\">x");
}

TEST(DsmlBlockParser, ACallThatIsTextDoesNotCountForTheFinish) {
  OutputEvents events;
  OutputParser alone({.parse_tool_calls = true});
  alone.PushText(Call("oops"), &events);
  const OutputEnd text = alone.Finish(&events);
  EXPECT_STREQ(FinishReason(text, /*hit_length=*/false), "stop");
  EXPECT_STREQ(FinishReason(text, /*hit_length=*/true), "length");
  for (const OutputEvent& event : events) EXPECT_EQ(event.kind, OutputEvent::Kind::kContent);
  OutputParser second({.parse_tool_calls = true});
  second.PushText(
      "<｜DSML｜function_calls><｜DSML｜invoke name=\"f\"/><｜DSML｜invoke name=\"g\">oops"
      "</｜DSML｜invoke></｜DSML｜function_calls>",
      &events);
  EXPECT_STREQ(FinishReason(second.Finish(&events), false), "tool_calls");
}

TEST(DsmlBlockParser, DropsAndCountsTextAfterTheBlock) {
  EXPECT_EQ(Content(absl::StrCat(kTwoCalls, "\n\nI called it. <b> ")),
            absl::StrCat("||", kTwoCallsParsed, "|dropped:17"));
}

TEST(DsmlBlockParser, AnIncompleteCallIsNeverACleanStop) {
  const absl::string_view text = kTwoCalls;
  const size_t opened = sizeof("\n\n<｜DSML｜function_calls>") - 1;
  const size_t invoke = text.find("<｜DSML｜invoke");
  const size_t begun = text.find('>', text.find("<｜DSML｜parameter")) + 1;
  for (size_t cut = 1; cut < text.size(); ++cut) {
    OutputParser parser({.parse_tool_calls = true});
    OutputEvents events;
    parser.PushText(text.substr(0, cut), &events);
    const OutputEnd end = parser.Finish(&events);
    CollectedOutput message;
    message.Add(events);
    message.Close(end);
    SCOPED_TRACE(cut);
    if (end.complete_calls > 0) {
      EXPECT_STREQ(FinishReason(end, true), end.incomplete_call ? "length" : "tool_calls");
      continue;
    }
    EXPECT_TRUE(message.calls.empty());
    const size_t kept_from = cut < begun ? 0 : invoke;
    EXPECT_EQ(message.content, text.substr(kept_from, cut - kept_from));
    EXPECT_EQ(end.incomplete_call, cut >= opened);
    EXPECT_STREQ(FinishReason(end, false), cut >= opened ? "length" : "stop");
  }
  EXPECT_EQ(
      Content("a<｜DSML｜function_calls><｜DSML｜invoke name=\"f\"><｜DSML｜parameter name=\"k\" "
              "string=\"true\">val</｜DSML"),
      "|a|f({\"k\": \"val)?|incomplete:<｜DSML｜invoke name=\"f\"><｜DSML｜parameter name=\"k\" "
      "string=\"true\">val</｜DSML");
  EXPECT_EQ(Content("<｜DSML｜function_calls><｜DSML｜invoke name=\"f\"/><｜DSML｜inv"),
            "||f({})|incomplete:<｜DSML｜inv");
}

TEST(DsmlBlockParser, ALostCallBetweenCallsIsReported) {
  EXPECT_EQ(
      Content(
          "<｜DSML｜function_calls><｜DSML｜invoke name=\"f\"/>\n<｜DSML｜invoke called g> {} \n"
          "<｜DSML｜invoke name=\"h\"/></｜DSML｜function_calls>"),
      "||f({})h({})|incomplete:<｜DSML｜invoke called g> {} \n");
}

TEST(DsmlBlockParser, JunkInACallIsReported) {
  EXPECT_EQ(Content(Call(absl::StrCat(Parameter("a", "false", "1"), " and ",
                                      Parameter("b", "false", "2"), " <ok> "))),
            "||f({\"a\": 1, \"b\": 2})|malformed:1");
  EXPECT_EQ(Content(Call(absl::StrCat("arguments: ", Parameter("a", "false", "1")))),
            "||f({\"a\": 1})|malformed:1");
}

TEST(DsmlBlockParser, StringArgumentsStreamAsTheyCome) {
  OutputParser parser({.parse_tool_calls = true});
  OutputEvents events;
  parser.PushText("<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">", &events);
  EXPECT_TRUE(events.empty());  // it may still be text
  parser.PushText("\n<｜DSML｜parameter name=\"k\" string=\"true\">", &events);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].kind, OutputEvent::Kind::kToolCallBegin);
  EXPECT_EQ(events[0].text, "f");
  events.clear();
  parser.PushText("One ", &events);
  parser.PushText("two <", &events);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, OutputEvent::Kind::kToolArguments);
  EXPECT_EQ(events[0].call, 0);
  EXPECT_EQ(events[0].text, "One two ");
}

TEST(V31BlockParser, ParsesCalls) {
  const std::string call = "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜>";
  EXPECT_EQ(V31(absl::StrCat(
                "Hm.\n<｜tool▁calls▁begin｜>", call,
                "<｜tool▁call▁begin｜>g<｜tool▁sep｜><｜tool▁call▁end｜><｜tool▁calls▁end｜>")),
            "|Hm.\n|f({\"a\": 1})g({})");
  EXPECT_EQ(V31(absl::StrCat("<｜tool▁calls▁begin｜>\n", call, "\n")), "||f({\"a\": 1})");
  EXPECT_EQ(
      V31("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>[1]<｜tool▁calls▁end｜> end"),
      "||f([1])|malformed:1|dropped:3");
  EXPECT_EQ(V31("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\""),
            "||f({\"a\")?|incomplete:<｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\"");
  EXPECT_EQ(V31("<｜tool▁calls▁begin｜> is a token"), "|<｜tool▁calls▁begin｜> is a token|");
  EXPECT_EQ(
      V31(absl::StrCat("<｜tool▁calls▁begin｜>", call, "<｜tool▁call▁begin｜>",
                       std::string(600, 'n'))),
      absl::StrCat("||f({\"a\": 1})|incomplete:<｜tool▁call▁begin｜>", std::string(600, 'n')));
}

}  // namespace
}  // namespace baleen::chat
