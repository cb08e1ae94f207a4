#include "model/tokenizer/utf8.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace baleen::tokenizer {
namespace {

struct Case {
  std::string bytes;
  Utf8Kind kind;
  size_t length;
};

TEST(NextUtf8, ClassifiesTheFirstUnit) {
  const Case cases[] = {
      {"a", Utf8Kind::kValid, 1},
      {std::string("\0", 1), Utf8Kind::kValid, 1},
      {"\x7F\x80", Utf8Kind::kValid, 1},
      {"\xC2\x80", Utf8Kind::kValid, 2},
      {"\xE0\xA0\x80", Utf8Kind::kValid, 3},
      {"\xED\x9F\xBFx", Utf8Kind::kValid, 3},
      {"\xEE\x80\x80", Utf8Kind::kValid, 3},
      {"\xF0\x90\x80\x80", Utf8Kind::kValid, 4},
      {"\xF4\x8F\xBF\xBF", Utf8Kind::kValid, 4},
      {"\x80", Utf8Kind::kInvalid, 1},              // a continuation alone
      {"\xC0\x80", Utf8Kind::kInvalid, 1},          // overlong
      {"\xC1\xBF", Utf8Kind::kInvalid, 1},          // overlong
      {"\xE0\x9F\xBF", Utf8Kind::kInvalid, 1},      // overlong
      {"\xED\xA0\x80", Utf8Kind::kInvalid, 1},      // a surrogate
      {"\xF0\x8F\xBF\xBF", Utf8Kind::kInvalid, 1},  // overlong
      {"\xF4\x90\x80\x80", Utf8Kind::kInvalid, 1},  // above U+10FFFF
      {"\xF5\x80\x80\x80", Utf8Kind::kInvalid, 1},
      {"\xFF", Utf8Kind::kInvalid, 1},
      {"\xC3(", Utf8Kind::kInvalid, 1},
      {"\xE2\x82(", Utf8Kind::kInvalid, 2},
      {"\xF0\x9F\x98(", Utf8Kind::kInvalid, 3},
      {"\xC3", Utf8Kind::kIncomplete, 1},
      {"\xE2", Utf8Kind::kIncomplete, 1},
      {"\xE2\x82", Utf8Kind::kIncomplete, 2},
      {"\xF0\x9F\x98", Utf8Kind::kIncomplete, 3},
  };
  for (const Case& c : cases) {
    const Utf8Unit unit = NextUtf8(c.bytes);
    EXPECT_EQ(unit.kind, c.kind) << ::testing::PrintToString(c.bytes);
    EXPECT_EQ(unit.bytes, c.length) << ::testing::PrintToString(c.bytes);
  }
}

TEST(FirstInvalidUtf8, FindsTheOffsetBehindAnyLengthOfText) {
  for (size_t before = 0; before < 20; ++before) {
    const std::string text = std::string(before, 'x') + "é";
    EXPECT_EQ(FirstInvalidUtf8(text), std::nullopt);
    EXPECT_EQ(FirstInvalidUtf8(text + "\xFFxxxxxxxxx"), before + 2);
    EXPECT_EQ(FirstInvalidUtf8(text + "\xE4\xB8"), before + 2) << "a cut-off end is invalid";
  }
  EXPECT_EQ(FirstInvalidUtf8(""), std::nullopt);
}

TEST(AppendUtf8, WritesWhatNextUtf8Accepts) {
  for (const uint32_t c : {0x0u, 0x7Fu, 0x80u, 0x7FFu, 0x800u, 0xFFFFu, 0x10000u, 0x10FFFFu}) {
    std::string text;
    AppendUtf8(c, &text);
    EXPECT_EQ(NextUtf8(text).kind, Utf8Kind::kValid) << c;
    EXPECT_EQ(NextUtf8(text).bytes, text.size()) << c;
  }
  std::string replacement;
  AppendUtf8(0xFFFD, &replacement);
  EXPECT_EQ(replacement, kReplacement);
}

}  // namespace
}  // namespace baleen::tokenizer
