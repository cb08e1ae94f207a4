#include "model/tokenizer/detokenizer.h"

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/tokenizer/utf8.h"
#include "testing/status_matchers.h"
#include "testing/synthetic_tokenizer.h"

namespace baleen::tokenizer {
namespace {

using ::testing::ElementsAre;

constexpr int32_t kEos = 1;      // special
constexpr int32_t kThink = 300;  // added, not special
constexpr int32_t kNoToken = 290;
constexpr int32_t kHalfPair = 259;  // bytes "a\xE4"

std::unique_ptr<Tokenizer> MakeTokenizer() {
  testing::Json json = testing::TokenizerJsonWithMerges({{"a", "ä"}});
  json["added_tokens"].push_back(testing::AddedTokenJson(kThink, "<think>", false));
  auto tokenizer = Tokenizer::Parse(json.dump(), "test");
  BALEEN_EXPECT_OK(tokenizer);
  return *std::move(tokenizer);
}

class DetokenizerTest : public ::testing::Test {
 protected:
  // The ids of single bytes.
  std::vector<int32_t> Ids(const std::string& bytes) const {
    std::vector<int32_t> by_byte(256);
    for (int32_t id = 3; id < 259; ++id) {
      by_byte[static_cast<uint8_t>(tokenizer_->TokenBytes(id)[0])] = id;
    }
    std::vector<int32_t> ids;
    for (const char c : bytes) ids.push_back(by_byte[static_cast<uint8_t>(c)]);
    return ids;
  }
  // What every Push and then Finish give.
  std::vector<std::string> Stream(const std::vector<int32_t>& ids, bool skip_special = false) {
    Detokenizer detokenizer(*tokenizer_, skip_special);
    std::vector<std::string> parts;
    for (const int32_t id : ids) parts.push_back(detokenizer.Push(id));
    parts.push_back(detokenizer.Finish());
    return parts;
  }
  std::vector<int32_t> Concat(std::vector<int32_t> a, const std::vector<int32_t>& b) const {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }

  const std::unique_ptr<Tokenizer> tokenizer_ = MakeTokenizer();
};

TEST_F(DetokenizerTest, HoldsBackAnUnfinishedCharacter) {
  EXPECT_THAT(Stream(Ids("a中!")), ElementsAre("a", "", "", "中", "!", ""));
  EXPECT_THAT(Stream(Ids("😀")), ElementsAre("", "", "", "😀", ""));
}

TEST_F(DetokenizerTest, EmitsTheWholePartOfATokenThatEndsInTheMiddle) {
  EXPECT_THAT(Stream({kHalfPair, Ids("\xB8")[0], Ids("\xAD")[0]}), ElementsAre("a", "", "中", ""));
}

TEST_F(DetokenizerTest, ReplacesEachMaximalInvalidSubpartOnce) {
  EXPECT_THAT(Stream(Ids("\xE4\xB8!")), ElementsAre("", "", "\uFFFD!", ""));
  EXPECT_THAT(Stream(Ids("\xFF\xFE")), ElementsAre("\uFFFD", "\uFFFD", ""));
  EXPECT_THAT(Stream(Ids("\xF0\x9F\xE4\xB8\xAD")), ElementsAre("", "", "\uFFFD", "", "中", ""));
  // Table 3-8 of the Unicode standard: E0 80 80 are three.
  EXPECT_THAT(Stream(Ids("\xE0\x80\x80")), ElementsAre("", "\uFFFD\uFFFD", "\uFFFD", ""));
}

TEST_F(DetokenizerTest, TheEndReplacesAnUnfinishedCharacterOnce) {
  EXPECT_THAT(Stream(Ids("\xF0\x9F\x98")), ElementsAre("", "", "", "\uFFFD"));
}

TEST_F(DetokenizerTest, FlushesBeforeAnAddedToken) {
  EXPECT_THAT(Stream(Concat(Ids("\xE4\xB8"), {kThink})), ElementsAre("", "", "\uFFFD<think>", ""));
}

TEST_F(DetokenizerTest, ASkippedTokenLeavesNoTrace) {
  const std::vector<int32_t> ids = Concat(Concat(Ids("\xE4"), {kEos}), Ids("\xB8\xAD"));
  EXPECT_THAT(Stream(ids, /*skip_special=*/true), ElementsAre("", "", "", "中", ""));
  EXPECT_EQ(tokenizer_->Decode(ids, /*skip_special=*/false),
            "\uFFFD<｜end▁of▁sentence｜>\uFFFD\uFFFD");
  EXPECT_EQ(tokenizer_->Decode(std::vector<int32_t>{kThink, kEos}, true), "<think>")
      << "added but not special stays";
}

TEST_F(DetokenizerTest, IdsWithoutATokenAreNothing) {
  for (const int32_t id : {kNoToken, -1, 1 << 30, 301}) {
    EXPECT_THAT(Stream({id}), ElementsAre("", "")) << id;
  }
}

TEST_F(DetokenizerTest, CanBeUsedAgainAfterFinish) {
  Detokenizer detokenizer(*tokenizer_, false);
  EXPECT_EQ(detokenizer.Push(Ids("\xE4")[0]), "");
  EXPECT_TRUE(detokenizer.has_pending());
  EXPECT_EQ(detokenizer.Finish(), "\uFFFD");
  EXPECT_FALSE(detokenizer.has_pending());
  EXPECT_EQ(detokenizer.Push(Ids("\xB8")[0]), "\uFFFD");
}

TEST_F(DetokenizerTest, RandomIdsGiveValidTextInEveryPartAndDecodeInSum) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  for (int round = 0; round < 500; ++round) {
    std::vector<int32_t> ids(rng() % 40);
    for (int32_t& id : ids) id = static_cast<int32_t>(rng() % 304);
    const bool skip_special = rng() % 2 == 0;
    std::string joined;
    for (const std::string& part : Stream(ids, skip_special)) {
      ASSERT_EQ(FirstInvalidUtf8(part), std::nullopt);
      joined += part;
    }
    ASSERT_EQ(joined, tokenizer_->Decode(ids, skip_special));
  }
}

}  // namespace
}  // namespace baleen::tokenizer
