#include "model/tokenizer/added_tokens.h"

#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace baleen::tokenizer {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// (offset, id) of all matches, one after the other.
std::vector<std::pair<size_t, int32_t>> FindAll(const std::vector<std::string>& tokens,
                                                const std::string& text) {
  std::vector<AddedToken> added;
  for (const std::string& content : tokens) {
    added.push_back({content, static_cast<int32_t>(added.size()), false});
  }
  const AddedTokenMatcher matcher(added);
  std::vector<std::pair<size_t, int32_t>> found;
  size_t from = 0;
  while (const auto match = matcher.Find(text, from)) {
    EXPECT_EQ(text.substr(match->begin, match->end - match->begin), tokens[match->id]);
    found.emplace_back(match->begin, match->id);
    from = match->end;
  }
  return found;
}

TEST(AddedTokenMatcher, TheLeftmostWinsOverALongerOne) {
  EXPECT_THAT(FindAll({"ab", "bcdef"}, "abcdef"), ElementsAre(std::pair(0, 0)));
}

TEST(AddedTokenMatcher, TheLongestAtOnePlaceWins) {
  EXPECT_THAT(FindAll({"<t>", "<t>>", "<"}, "<t>>a<t<t>"),
              ElementsAre(std::pair(0, 1), std::pair(5, 2), std::pair(7, 0)));
}

TEST(AddedTokenMatcher, ABeginningThatDoesNotEndIsPassedOver) {
  EXPECT_THAT(FindAll({"<｜User｜>", "｜DSML｜"}, "<｜DSML｜<｜User<｜User｜>"),
              ElementsAre(std::pair(1, 1), std::pair(19, 0)));
}

TEST(AddedTokenMatcher, FindsNeighboursAndNothingInTheRest) {
  EXPECT_THAT(FindAll({"aa"}, "aaaaa"), ElementsAre(std::pair(0, 0), std::pair(2, 0)));
  EXPECT_THAT(FindAll({"aa"}, "a"), IsEmpty());
  EXPECT_THAT(FindAll({"aa"}, ""), IsEmpty());
  EXPECT_THAT(FindAll({}, "aa"), IsEmpty());
}

}  // namespace
}  // namespace baleen::tokenizer
