#include "router/chat/stop_strings.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "testing/status_matchers.h"

namespace baleen::chat {
namespace {

using ::baleen::testing::StatusIs;
using ::testing::HasSubstr;

struct Outcome {
  std::string text;
  int stopped_by = -1;
  bool operator==(const Outcome&) const = default;
};

StopMatcher Matcher(const std::vector<std::string>& stops, bool include = false) {
  return StopMatcher(StopStrings::Create(stops).value(), include);
}

Outcome StopAt(const std::vector<std::string>& stops, const std::vector<std::string>& pieces,
               bool include = false) {
  StopMatcher matcher = Matcher(stops, include);
  Outcome outcome;
  for (const std::string& piece : pieces) outcome.text += matcher.Push(piece);
  outcome.text += matcher.Finish();
  outcome.stopped_by = matcher.stopped_by();
  return outcome;
}

TEST(StopStrings, CutsAtTheStopAndHoldsBackItsBeginning) {
  StopMatcher matcher = Matcher({"END", "\n\n"});
  EXPECT_EQ(matcher.Push("abcE"), "abc");
  EXPECT_EQ(matcher.Push("N"), "");
  EXPECT_EQ(matcher.Push("E"), "EN");
  EXPECT_EQ(matcher.Push("ND more"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.stopped_by(), 0);
  EXPECT_EQ(matcher.Push("after"), "");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopStrings, TheEndReleasesWhatWasHeld) {
  EXPECT_EQ(StopAt({"END"}, {"abEN"}), (Outcome{"abEN", -1}));
}

TEST(StopStrings, IncludesTheStopWhenAsked) {
  EXPECT_EQ(StopAt({"END"}, {"abE", "ND", "x"}, true), (Outcome{"abEND", 0}));
  EXPECT_EQ(StopAt({"END"}, {"abE", "ND", "x"}, false), (Outcome{"ab", 0}));
}

TEST(StopStrings, TheFirstToEndWinsThenTheLongest) {
  EXPECT_EQ(StopAt({"abcd", "bc"}, {"xabcd"}), (Outcome{"xa", 1}));
  EXPECT_EQ(StopAt({"c", "abc"}, {"xabc"}), (Outcome{"x", 1}));
  EXPECT_EQ(StopAt({"aab"}, {"aaab"}), (Outcome{"a", 0}));
}

TEST(StopStrings, NoStopsPassEverything) { EXPECT_EQ(StopAt({}, {"a", "b"}), (Outcome{"ab", -1})); }

TEST(StopStrings, MatchesAcrossCharactersOfManyBytes) {
  EXPECT_EQ(StopAt({"。終"}, {"文。", "終り"}), (Outcome{"文", 0}));
}

TEST(StopStrings, RefusesEmptyAndHuge) {
  EXPECT_THAT(StopStrings::Create(std::vector<std::string>{"a", ""}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("empty")));
  EXPECT_THAT(StopStrings::Create(
                  std::vector<std::string>{std::string(StopStrings::kMaxTotalBytes + 1, 'x')}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("bytes in total")));
}

// The rule, written plainly.
Outcome Reference(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    int best = -1;
    for (size_t i = 0; i < stops.size(); ++i) {
      if (!absl::EndsWith(absl::string_view(text).substr(0, end), stops[i])) continue;
      if (best < 0 || stops[i].size() > stops[best].size()) best = static_cast<int>(i);
    }
    if (best >= 0) return {text.substr(0, end - stops[best].size()), best};
  }
  return {text, -1};
}

TEST(StopStrings, EqualsThePlainRuleOnRandomTexts) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 rng(seed);
  const auto random_text = [&](size_t longest) {
    std::string text(1 + rng() % longest, ' ');
    for (char& c : text) c = static_cast<char>('a' + rng() % 3);
    return text;
  };
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::string> stops(1 + rng() % 5);
    for (std::string& stop : stops) stop = random_text(6);
    const std::string text = random_text(30);
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      const size_t n = std::min<size_t>(1 + rng() % 5, text.size() - at);
      pieces.push_back(text.substr(at, n));
      at += n;
    }
    ASSERT_EQ(StopAt(stops, pieces), Reference(stops, text)) << text;
  }
}

TEST(StopStrings, HundredsOfStopsCostNoMoreTime) {
  std::vector<std::string> stops;
  for (int i = 0; i < 500; ++i) stops.push_back(absl::StrCat("stop number ", i, "!"));
  StopMatcher matcher = Matcher(stops);
  size_t bytes = 0;
  for (int i = 0; i < 200000; ++i) bytes += matcher.Push("stop number 7, ").size();
  bytes += matcher.Finish().size();
  EXPECT_EQ(bytes, 15u * 200000);
}

}  // namespace
}  // namespace baleen::chat
