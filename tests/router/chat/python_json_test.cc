#include "router/chat/python_json.h"

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "testing/status_matchers.h"

namespace baleen::chat {
namespace {

using ::baleen::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string RoundTrip(absl::string_view text) {
  const auto value = ParseJson(text);
  return value.ok() ? DumpPythonJson(*value) : std::string(value.status().message());
}

TEST(PythonJson, EqualsPythonOnThousandsOfRandomTexts) {
  std::ifstream file(BALEEN_SOURCE_DIR "/tests/router/chat/python_json_golden.txt");
  std::string text, expected;
  int pairs = 0;
  while (std::getline(file, text) && std::getline(file, expected)) {
    ASSERT_EQ(RoundTrip(text), expected) << "from " << text;
    ++pairs;
  }
  EXPECT_EQ(pairs, 2000);
}

TEST(PythonJson, WritesSeparatorsAndKeepsKeyOrder) {
  EXPECT_EQ(RoundTrip(R"({"b":[1,2],"a":{"y":null,"x":true}})"),
            R"({"b": [1, 2], "a": {"y": null, "x": true}})");
}

TEST(PythonJson, LastValueOfARepeatedKeyTakesTheFirstPlace) {
  EXPECT_EQ(RoundTrip(R"({"a":1,"b":2,"a":3})"), R"({"a": 3, "b": 2})");
  std::string large = "{", expected = "{";
  for (int i = 0; i < 100; ++i) {
    absl::StrAppend(&large, "\"k", i, "\":0,");
    absl::StrAppend(&expected, i > 0 ? ", " : "", "\"k", i, "\": ", i == 70 ? 7 : i == 3 ? 5 : 0);
  }
  EXPECT_EQ(RoundTrip(large + R"("k70":7,"k3":5})"), expected + "}");
}

TEST(PythonJson, IntegersBeyond64BitsStayExact) {
  const std::string digits = "-123456789012345678901234567890";
  const auto value = ParseJson(digits);
  BALEEN_ASSERT_OK(value);
  EXPECT_TRUE(IsBigInteger(*value));
  EXPECT_FALSE(value->is_number());
  EXPECT_EQ(DumpPythonJson(*value), digits);
  EXPECT_FALSE(IsBigInteger(*ParseJson("18446744073709551615")));
}

TEST(PythonJson, FloatsLookLikePythons) {
  EXPECT_EQ(PythonFloat(1), "1.0");
  EXPECT_EQ(PythonFloat(-0.0), "-0.0");
  EXPECT_EQ(PythonFloat(1e-5), "1e-05");
  EXPECT_EQ(PythonFloat(1e-4), "0.0001");
  EXPECT_EQ(PythonFloat(1e16), "1e+16");
  EXPECT_EQ(PythonFloat(1e15), "1000000000000000.0");
  EXPECT_EQ(PythonFloat(123456.75), "123456.75");
  EXPECT_EQ(PythonFloat(1e100), "1e+100");
}

TEST(PythonJson, EscapesOnlyQuotesBackslashesAndControls) {
  std::string out;
  AppendJsonString(absl::string_view("\"\\/\b\f\n\r\t\x01\x1f\x7f\0é", 14), &out);
  EXPECT_EQ(out, "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\\u0000é\"");
}

TEST(PythonJson, ErrorsNameTheByte) {
  const struct {
    std::string text, message;
  } cases[] = {
      {"", "byte 0: the text ends; expected a value"},
      {"[1,", "byte 3: the text ends; expected a value"},
      {"[1 2]", "byte 3: expected ',' or ']'"},
      {"{\"a\" 1}", "byte 5: expected ':'"},
      {"{a:1}", "byte 1: expected a key in quotes"},
      {"[1,]", "byte 3: expected a value"},
      {"{\"a\":1,}", "byte 7: expected a key in quotes"},
      {"1 2", "byte 2: expected the end after the value"},
      {"01", "byte 1: a number must not begin with 0"},
      {"-", "byte 1: the text ends; expected a digit"},
      {"1.", "byte 2: the text ends; expected a digit"},
      {"1e+", "byte 3: the text ends; expected a digit"},
      {".5", "byte 0: expected a value"},
      {"+1", "byte 0: expected a value"},
      {"NaN", "byte 0: expected a value"},
      {"[Infinity]", "byte 1: expected a value"},
      {"[-Infinity]", "byte 2: expected a digit"},
      {"[1e400]", "byte 1: a number out of range"},
      {"-1e309", "byte 0: a number out of range"},
      {"nul", "byte 0: expected a value"},
      {"\"abc", "byte 4: the text ends; a string has no end"},
      {"\"a\nb\"", "byte 2: a control character in a string must be escaped"},
      {"\"\\x\"", "byte 2: unknown escape"},
      {"\"\\u12g4\"", "byte 5: expected four hexadecimal digits"},
      {"\"\\ud800\"", "byte 1: a lone surrogate"},
      {"\"\\ud800\\u0041\"", "byte 1: a lone surrogate"},
      {"\"\\udc00\"", "byte 1: a lone surrogate"},
      {"\"a\xff\"", "byte 2: invalid UTF-8"},
      {"\"\xc0\xaf\"", "byte 1: invalid UTF-8"},
      {"\"\xed\xa0\x80\"", "byte 1: invalid UTF-8"},
      {"\"\xf4\x90\x80\x80\"", "byte 1: invalid UTF-8"},
      {"\"\xe4\xb8\"", "byte 1: invalid UTF-8"},
      {"\xef\xbb\xbf{}", "byte 0: expected a value"},
      {"// x\n1", "byte 0: expected a value"},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(ParseJson(c.text), StatusIs(absl::StatusCode::kInvalidArgument, c.message))
        << c.text;
  }
}

TEST(PythonJson, RefusesTooDeepNestingAndHugeIntegers) {
  const auto nested = [](int n) { return std::string(n, '[') + std::string(n, ']'); };
  BALEEN_EXPECT_OK(ParseJson(nested(128)));
  EXPECT_THAT(ParseJson(nested(129)),
              StatusIs(absl::StatusCode::kInvalidArgument, "byte 128: nested deeper than 128"));
  EXPECT_THAT(ParseJson(nested(4), {.depth = 3}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("byte 3")));
  // A million brackets must not exhaust the stack.
  EXPECT_FALSE(ParseJson(std::string(1000000, '[')).ok());
  BALEEN_EXPECT_OK(ParseJson(std::string(4300, '9')));
  EXPECT_THAT(ParseJson(std::string(4301, '9')),
              StatusIs(absl::StatusCode::kInvalidArgument, StartsWith("byte 0: an integer of")));
}

TEST(PythonJson, ReadsManyKeysInLinearTime) {
  // Quadratic time would be minutes here, over the test's limit.
  std::string text = "{";
  for (int i = 0; i < 300000; ++i) absl::StrAppend(&text, "\"k", i, "\":1,");
  text += "\"last\":2}";
  const auto value = ParseJson(text);
  BALEEN_ASSERT_OK(value);
  EXPECT_EQ(value->size(), 300001u);
}

}  // namespace
}  // namespace baleen::chat
