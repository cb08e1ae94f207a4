#include "model/tokenizer/pre_tokenizer.h"

#include <ctime>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "testing/status_matchers.h"
#include "testing/synthetic_tokenizer.h"

namespace baleen::tokenizer {
namespace {

using ::baleen::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<std::string> DeepSeekPatterns() {
  std::vector<std::string> patterns;
  const testing::Json json = testing::DeepSeekPreTokenizerJson();
  for (const auto& step : json["pretokenizers"]) {
    if (step["type"] == "Split") patterns.push_back(step["pattern"]["Regex"]);
  }
  return patterns;
}

std::vector<std::string> Pieces(const std::vector<std::string>& patterns, const std::string& text) {
  const auto pre_tokenizer = PreTokenizer::Create(patterns);
  BALEEN_EXPECT_OK(pre_tokenizer);
  std::vector<std::string> pieces;
  BALEEN_EXPECT_OK(pre_tokenizer->ForEachPiece(
      text, [&](absl::string_view piece) { pieces.emplace_back(piece); }));
  EXPECT_EQ(absl::StrJoin(pieces, ""), text);
  return pieces;
}

// Section 6.2 of the model's specification.
TEST(PreTokenizer, CutsTheVectorsOfTheSpecification) {
  struct Case {
    std::string text;
    std::vector<std::string> pieces;
  };
  const Case cases[] = {
      {"Hello! I am DeepSeek.", {"Hello", "!", " I", " am", " DeepSeek", "."}},
      {"a  1", {"a", "  ", "1"}},
      {"x = 12345;\n\n  return", {"x", " =", " ", "123", "45", ";\n\n", " ", " return"}},
      {"foo.bar(baz)", {"foo", ".bar", "(baz", ")"}},
      {"中文abc123あア", {"中文", "abc", "123", "あア"}},
      {"it's", {"it", "'s"}},
      {"\t\tif x:\r\n", {"\t", "\tif", " x", ":\r\n"}},
      {"3.14", {"3", ".", "14"}},
      {"C++ #include <x>", {"C", "++", " #", "include", " <", "x", ">"}},
      {"  \n\n x", {"  \n\n", " x"}},
      {"1+1=?", {"1", "+", "1", "=?"}},
      {std::string(" \0\x01"
                   "a",
                   4),
       {" ", std::string("\0", 1),
        "\x01"
        "a"}},
  };
  for (const Case& c : cases) {
    EXPECT_THAT(Pieces(DeepSeekPatterns(), c.text), ElementsAreArray(c.pieces)) << c.text;
  }
}

// PCRE2's own \s has U+180E, Unicode's White_Space has not.
TEST(PreTokenizer, TheMongolianVowelSeparatorIsNoWhiteSpace) {
  EXPECT_THAT(Pieces({"\\s+"}, "a\u180E b"), ElementsAre("a\u180E", " ", "b"));
}

TEST(PreTokenizer, ALookAheadEndsAtThePiece) {
  EXPECT_THAT(Pieces({"1", "a(?!1)"}, "aa1"), ElementsAre("a", "a", "1"));
}

TEST(PreTokenizer, WithoutPatternsTheTextIsOnePiece) {
  EXPECT_THAT(Pieces({}, "a b"), ElementsAre("a b"));
  EXPECT_THAT(Pieces({}, ""), IsEmpty());
  EXPECT_THAT(Pieces(DeepSeekPatterns(), ""), IsEmpty());
}

TEST(PreTokenizer, AnEmptyMatchCutsAndGoesOn) {
  EXPECT_THAT(Pieces({"x*"}, "éxxb"), ElementsAre("é", "xx", "b"));
  EXPECT_THAT(Pieces({"(?=b)"}, "abab"), ElementsAre("a", "ba", "b"));
}

// A pattern that needs more stack than the regex library's compiled code has falls back.
TEST(PreTokenizer, LongPiecesDoNotRunOutOfStack) {
  const std::string text(1 << 20, 'a');
  EXPECT_THAT(Pieces({"(?:(?:a|b)(?:a|c))+"}, text), ElementsAre(text));
}

TEST(PreTokenizer, TakesLinearTimeOnRunsOfOneClass) {
  for (const char* unit : {" ", "\n", "a", "中", "!", "1", "\x01", " \n", "a\u0301"}) {
    std::string text;
    while (text.size() < 1 << 20) text += unit;
    const std::clock_t start = std::clock();
    EXPECT_FALSE(Pieces(DeepSeekPatterns(), text).empty());
    // Quadratic time would be hours.
    EXPECT_LT(std::clock() - start, 20 * CLOCKS_PER_SEC) << "unit '" << unit << "'";
  }
}

TEST(PreTokenizer, NamesThePatternItCannotUse) {
  const std::vector<std::string> unbalanced = {"a", "(b"};
  EXPECT_THAT(PreTokenizer::Create(unbalanced),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("pattern 1: ")));
  const std::vector<std::string> foreign = {"\\w"};
  EXPECT_THAT(PreTokenizer::Create(foreign),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("pattern 0: ")));
}

}  // namespace
}  // namespace baleen::tokenizer
