// Random outputs: rendered conversations must come back as they were, garbage must not crash, and
// nothing may depend on how the text is cut.

#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "router/chat/chat_encoder.h"
#include "router/chat/markers.h"
#include "router/chat/output_parser.h"
#include "router/chat/python_json.h"

namespace baleen::chat {
namespace {

class Random {
 public:
  explicit Random(unsigned seed) : rng_(seed) {}
  size_t Below(size_t n) { return rng_() % n; }
  bool OneIn(size_t n) { return Below(n) == 0; }
  const std::string& Pick(const std::vector<std::string>& list) { return list[Below(list.size())]; }
  std::string Join(const std::vector<std::string>& list, size_t most) {
    std::string text;
    for (size_t n = Below(most + 1); n > 0; --n) text += Pick(list);
    return text;
  }
  // Pieces of whole characters.
  std::vector<absl::string_view> Cut(absl::string_view text) {
    std::vector<absl::string_view> pieces;
    const size_t longest = 1 + Below(20);
    for (size_t at = 0; at < text.size();) {
      size_t end = std::min(text.size(), at + 1 + Below(longest));
      while (end < text.size() && (text[end] & 0xC0) == 0x80) ++end;
      pieces.push_back(text.substr(at, end - at));
      at = end;
    }
    return pieces;
  }

 private:
  std::mt19937 rng_;
};

struct Parsed {
  OutputEvents events;
  OutputEnd end;
};

Parsed Parse(const OutputParser::Options& options, const std::vector<absl::string_view>& pieces) {
  Parsed parsed;
  OutputParser parser(options);
  for (const absl::string_view piece : pieces) parser.PushText(piece, &parsed.events);
  parsed.end = parser.Finish(&parsed.events);
  return parsed;
}

std::string Describe(const Parsed& parsed) {
  std::string text;
  OutputEvents joined;
  for (const OutputEvent& event : parsed.events) {
    if (event.kind == OutputEvent::Kind::kToolCallBegin ||
        event.kind == OutputEvent::Kind::kToolCallEnd) {
      joined.push_back(event);
    } else {
      EmitText(event.kind, event.call, event.text, &joined);
    }
  }
  for (const OutputEvent& event : joined) {
    absl::StrAppend(&text, static_cast<int>(event.kind), ",", event.call, ",", event.text, ";");
  }
  const OutputEnd& end = parsed.end;
  absl::StrAppend(&text, end.complete_calls, ",", end.malformed_calls, ",", end.incomplete_call);
  absl::StrAppend(&text, ",", end.unparsed, ",", end.dropped_bytes);
  return text;
}

const std::vector<std::string>& TextParts() {
  static const auto& parts = *new std::vector<std::string>{
      "a",    " b", "\n",         "\n\n",      "<",         "</",
      "<b>",  "｜", "｜DSML｜",   "<｜DSML｜", "</think",   "function_calls>",
      "é中😀", "\"", "\\",         "\t",        "\x01",      "{",
      "}",    "12", "</｜DSML｜", "invoke",    "parameter>"};
  return parts;
}

// Text without what would end it.
std::string TextWithout(Random& random, std::initializer_list<absl::string_view> tags) {
  while (true) {
    const std::string text = random.Join(TextParts(), 8);
    bool good = true;
    for (const absl::string_view tag : tags) good &= !absl::StrContains(text, tag);
    if (good) return text;
  }
}

ToolCall RandomCall(Random& random, bool string_values_only) {
  ToolCall call{.name = absl::StrCat("f", random.Below(10))};
  const size_t count = random.Below(4);
  nlohmann::ordered_json arguments = nlohmann::ordered_json::object();
  for (size_t i = 0; i < count; ++i) {
    const std::string key = absl::StrCat("k", i, random.OneIn(2) ? "" : "é\\\n<");
    const std::string text = TextWithout(random, {kParameterClose});
    nlohmann::ordered_json value = text;
    if (!string_values_only && random.OneIn(2)) {
      value = *ParseJson(random.Pick({"1", "-1.5", "null", "true", "[]", "[1, {\"a\": \"<b>\"}]",
                                      "123456789012345678901234567890", "1e-07"}));
    }
    call.arguments.push_back({.key = key,
                              .is_string = value.is_string(),
                              .value = value.is_string() ? text : DumpPythonJson(value)});
    arguments[key] = value;
  }
  call.arguments_json = DumpPythonJson(arguments);
  return call;
}

ChatMessage RandomAnswer(Random& random, ChatStyle style) {
  const char* opening = style == ChatStyle::kV32 ? kCallsOpen : kToolCallsBegin;
  ChatMessage answer{.role = Role::kAssistant};
  answer.reasoning = TextWithout(random, {opening, kThinkEnd});
  answer.content = TextWithout(random, {opening, kThinkEnd});
  for (size_t n = random.Below(3); n > 0; --n) {
    answer.tool_calls.push_back(RandomCall(random, false));
  }
  return answer;
}

void ExpectSame(const CollectedOutput& parsed, const ChatMessage& answer, bool thinking) {
  EXPECT_EQ(parsed.reasoning, thinking ? answer.reasoning : "");
  EXPECT_EQ(parsed.content, answer.content);
  ASSERT_EQ(parsed.calls.size(), answer.tool_calls.size());
  for (size_t i = 0; i < parsed.calls.size(); ++i) {
    EXPECT_EQ(parsed.calls[i].name, answer.tool_calls[i].name);
    EXPECT_EQ(parsed.calls[i].arguments, answer.tool_calls[i].arguments_json);
    EXPECT_TRUE(parsed.calls[i].complete);
  }
}

TEST(OutputRoundTrip, WhatTheEncoderWritesComesBack) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  Random random(seed);
  for (int round = 0; round < 5000; ++round) {
    const ChatStyle style = random.OneIn(3) ? ChatStyle::kV31 : ChatStyle::kV32;
    ChatPrompt prompt{.messages = {{.role = Role::kUser, .content = "q"}}};
    prompt.thinking = style == ChatStyle::kV32 && random.OneIn(2);
    const std::string question = EncodeChat(prompt, style)->text;
    prompt.messages.push_back(RandomAnswer(random, style));
    std::string whole = EncodeChat(prompt, style)->text;
    ASSERT_EQ(whole.substr(0, question.size()), question);
    whole.resize(whole.size() - (sizeof(kEos) - 1));

    const OutputParser::Options options = {
        .style = style, .starts_in_reasoning = prompt.thinking, .parse_tool_calls = true};
    const auto pieces = random.Cut(absl::string_view(whole).substr(question.size()));
    const Parsed parsed = Parse(options, pieces);
    CollectedOutput message;
    message.Add(parsed.events);
    EXPECT_FALSE(parsed.end.incomplete_call);
    ExpectSame(message, prompt.messages.back(), prompt.thinking);
    if (HasFailure()) FAIL() << "round " << round << ": " << whole;
  }
}

const std::vector<std::string>& GarbageParts(ChatStyle style) {
  static const auto& v32 = *new std::vector<std::string>{kCallsOpen,
                                                         kCallsClose,
                                                         kInvokeOpen,
                                                         kInvokeClose,
                                                         kParameterOpen,
                                                         kParameterClose,
                                                         " name=\"f\"",
                                                         " name=\"f\">\n",
                                                         " name=\"g\"/>",
                                                         " name=\"k\" string=\"true\">",
                                                         " name=\"l\" string=\"false\">",
                                                         " string=\"",
                                                         ">",
                                                         "\"",
                                                         "{\"a\": 1}",
                                                         "[1, 2",
                                                         "\n",
                                                         "\n\n",
                                                         " ",
                                                         "text",
                                                         "<",
                                                         "</",
                                                         "<｜DSML｜",
                                                         "</｜DSML｜",
                                                         "｜",
                                                         kThinkBegin,
                                                         kThinkEnd,
                                                         "é",
                                                         "\x02",
                                                         "\\"};
  static const auto& v31 = *new std::vector<std::string>{kToolCallsBegin,
                                                         kToolCallsEnd,
                                                         kToolCallBegin,
                                                         kToolCallEnd,
                                                         kToolSep,
                                                         "f",
                                                         "{}",
                                                         "{\"a\": ",
                                                         "<｜tool▁",
                                                         "<｜",
                                                         "\n",
                                                         " ",
                                                         "text",
                                                         "<",
                                                         kThinkEnd,
                                                         "1}",
                                                         "é"};
  return style == ChatStyle::kV32 ? v32 : v31;
}

// Begin, arguments and end of calls come in order; complete calls have JSON objects for arguments,
// or with V3.1's style are malformed; the output is not much longer than the input.
void CheckEvents(const Parsed& parsed, ChatStyle style, size_t input_bytes) {
  int call = -1, malformed = 0, complete = 0;
  bool open = false;
  std::string arguments;
  size_t bytes = parsed.end.unparsed.size() + size_t(parsed.end.dropped_bytes);
  for (const OutputEvent& event : parsed.events) {
    bytes += event.text.size();
    switch (event.kind) {
      case OutputEvent::Kind::kReasoning:
      case OutputEvent::Kind::kContent:
        EXPECT_EQ(call, -1) << "text after a call";
        break;
      case OutputEvent::Kind::kToolCallBegin:
        EXPECT_FALSE(open);
        EXPECT_EQ(event.call, ++call);
        EXPECT_FALSE(event.text.empty());
        open = true;
        arguments.clear();
        break;
      case OutputEvent::Kind::kToolArguments:
        EXPECT_TRUE(open);
        EXPECT_EQ(event.call, call);
        arguments += event.text;
        break;
      case OutputEvent::Kind::kToolCallEnd: {
        EXPECT_TRUE(open);
        open = false;
        ++complete;
        const auto json = ParseJson(arguments);
        if (!json.ok() || !json->is_object()) ++malformed;
        break;
      }
    }
  }
  EXPECT_EQ(complete, parsed.end.complete_calls);
  EXPECT_LE(malformed, style == ChatStyle::kV31 ? parsed.end.malformed_calls : 0);
  if (open) {
    EXPECT_TRUE(parsed.end.incomplete_call);
  }
  EXPECT_LE(bytes, 8 * input_bytes + 16);
}

TEST(OutputFuzz, GarbageOfTagsIsParsedTheSameHoweverItIsCut) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  Random random(seed);
  for (int round = 0; round < 30000; ++round) {
    const OutputParser::Options options = {
        .style = random.OneIn(4) ? ChatStyle::kV31 : ChatStyle::kV32,
        .starts_in_reasoning = random.OneIn(2),
        .parse_tool_calls = !random.OneIn(8)};
    const std::vector<std::string>& parts = GarbageParts(options.style);
    // Half of the time right into a call, which garbage seldom opens by itself.
    std::string text = random.Join(parts, 2);
    if (random.OneIn(2)) text += parts[0] + parts[2] + parts[7];
    text += random.Join(parts, 25);
    const Parsed whole = Parse(options, {text});
    CheckEvents(whole, options.style, text.size());
    EXPECT_EQ(Describe(Parse(options, random.Cut(text))), Describe(whole));
    if (HasFailure()) FAIL() << "round " << round << ": " << text;
  }
}

TEST(OutputFuzz, RandomBytesDoNotCrash) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  Random random(seed);
  size_t bytes = 0;
  for (int round = 0; round < 5000; ++round) {
    std::string text = random.Join(GarbageParts(ChatStyle::kV32), 5);
    for (size_t n = random.Below(10); n > 0 && !text.empty(); --n) {
      text[random.Below(text.size())] = static_cast<char>(random.Below(256));
    }
    const OutputParser::Options options = {.starts_in_reasoning = random.OneIn(2),
                                           .parse_tool_calls = true};
    const Parsed whole = Parse(options, {text});
    EXPECT_LE(whole.end.unparsed.size(), text.size());
    bytes += text.size();
  }
  EXPECT_GT(bytes, 50000u);
}

TEST(OutputFuzz, LongHeldTextTakesLinearTime) {
  // Quadratic time would be over the test's limit: a value of 4 MB that comes byte by byte.
  std::string text = absl::StrCat(kCallsOpen, kInvokeOpen, " name=\"f\">", kParameterOpen,
                                  " name=\"k\" string=\"false\">\"");
  text += std::string(4 << 20, 'x');
  absl::StrAppend(&text, "\"", kParameterClose, kInvokeClose);
  std::vector<absl::string_view> pieces;
  for (size_t i = 0; i < text.size(); ++i) pieces.push_back(absl::string_view(text).substr(i, 1));
  const Parsed parsed = Parse({.parse_tool_calls = true}, pieces);
  EXPECT_EQ(parsed.end.complete_calls, 1);
  EXPECT_EQ(parsed.end.malformed_calls, 0);
}

}  // namespace
}  // namespace baleen::chat
