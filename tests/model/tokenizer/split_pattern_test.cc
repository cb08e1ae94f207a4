#include "model/tokenizer/split_pattern.h"

#include "gtest/gtest.h"
#include "testing/status_matchers.h"

namespace baleen::tokenizer {
namespace {

using ::baleen::testing::StatusIs;
using ::testing::HasSubstr;

TEST(ToPcre2Pattern, LeavesWhatMeansTheSame) {
  for (const char* pattern :
       {"\\p{N}{1,3}", "[一-龥]+", "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+",
        "[^\r\n\\p{L}\\P{Lu}]?", "(?:a|b)(?!c)\\d+\\[", "", "(?i:'s|'t)"}) {
    const auto translated = ToPcre2Pattern(pattern);
    BALEEN_ASSERT_OK(translated) << pattern;
    EXPECT_EQ(*translated, pattern);
  }
}

TEST(ToPcre2Pattern, SpellsOutWhiteSpace) {
  const auto outside = ToPcre2Pattern("\\s+(?!\\S)");
  BALEEN_ASSERT_OK(outside);
  EXPECT_THAT(*outside, ::testing::StartsWith("[\\x{9}-\\x{d}\\x{20}"));
  EXPECT_THAT(*outside, HasSubstr("(?![^\\x{9}"));
  const auto inside = ToPcre2Pattern("[^\\sa]");
  BALEEN_ASSERT_OK(inside);
  EXPECT_THAT(*inside, ::testing::StartsWith("[^\\x{9}"));
  EXPECT_THAT(*inside, ::testing::EndsWith("\\x{3000}a]"));
}

TEST(ToPcre2Pattern, RefusesWhatTheLibrariesReadDifferently) {
  struct Case {
    const char* pattern;
    const char* named;
  };
  for (const Case& c :
       {Case{"\\w+", "\\w"}, Case{"a\\h", "\\h"}, Case{"(a)\\1", "\\1"}, Case{"\\p{Han}+", "\\p"},
        Case{"\\pL", "\\p"}, Case{"\\p{", "\\p"}, Case{"[a-z&&[^b]]", "'&&'"},
        Case{"[a[b]]", "'['"}, Case{"[[:alpha:]]", "'['"}, Case{"[\\S]", "\\S"},
        Case{"a\\", "trailing"}, Case{"[a", "closing bracket"}}) {
    EXPECT_THAT(ToPcre2Pattern(c.pattern),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(c.named)))
        << c.pattern;
  }
}

}  // namespace
}  // namespace baleen::tokenizer
