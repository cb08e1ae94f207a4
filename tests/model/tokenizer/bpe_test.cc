#include "model/tokenizer/bpe.h"

#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "testing/status_matchers.h"
#include "testing/synthetic_tokenizer.h"

namespace baleen::tokenizer {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TokenizerFile FileOf(const testing::Json& json) {
  auto file = ParseTokenizerFile(json.dump(), "test");
  BALEEN_EXPECT_OK(file);
  return *std::move(file);
}

std::vector<int32_t> Encode(const Bpe& bpe, const std::string& piece) {
  Bpe::Scratch scratch;
  std::vector<int32_t> ids;
  bpe.Encode(piece, &scratch, &ids);
  return ids;
}

// The definition, word by word: the pair with the lowest rank, the leftmost of them, until none.
std::vector<int32_t> EncodeByDefinition(const TokenizerFile& file, const std::string& piece) {
  std::map<std::pair<int32_t, int32_t>, size_t> ranks;
  for (size_t i = 0; i < file.merges.size(); ++i) {
    ranks[{file.merges[i].left, file.merges[i].right}] = i;
  }
  std::vector<int32_t> ids;
  for (const char c : piece) ids.push_back(file.byte_ids[static_cast<uint8_t>(c)]);
  while (true) {
    size_t best_rank = file.merges.size(), best_at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto it = ranks.find({ids[i], ids[i + 1]});
      if (it != ranks.end() && it->second < best_rank) {
        best_rank = it->second;
        best_at = i;
      }
    }
    if (best_rank == file.merges.size()) return ids;
    ids[best_at] = file.merges[best_rank].merged;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(best_at) + 1);
  }
}

TEST(Bpe, MergesTheLeftmostOfEqualPairs) {
  const Bpe bpe(FileOf(testing::TokenizerJsonWithMerges({{"a", "a"}, {"aa", "a"}})));
  EXPECT_THAT(Encode(bpe, "aa"), ElementsAre(259));
  EXPECT_THAT(Encode(bpe, "aaa"), ElementsAre(260));
  EXPECT_THAT(Encode(bpe, "aaaa"), ElementsAre(259, 259));
  EXPECT_THAT(Encode(bpe, "aaaaa"), ElementsAre(259, 260));
}

TEST(Bpe, ATokenThatItsOwnMergesDoNotReachIsNotUsed) {
  // "abc" is only made of "a" and "bc", but "ab" comes first.
  const testing::Json json =
      testing::TokenizerJsonWithMerges({{"a", "b"}, {"b", "c"}, {"a", "bc"}});
  EXPECT_THAT(Encode(Bpe(FileOf(json)), "abc"), ElementsAre(259, 'c' - 30));
  testing::Json whole = json;
  whole["model"]["ignore_merges"] = true;
  EXPECT_THAT(Encode(Bpe(FileOf(whole)), "abc"), ElementsAre(261));
}

TEST(Bpe, AddedTokensAreNoVocabulary) {
  testing::Json json = testing::SmallTokenizerJson();
  json["model"]["ignore_merges"] = true;
  json["model"]["vocab"]["tok"] = 300;
  json["added_tokens"].push_back(testing::AddedTokenJson(300, "tok", false));
  EXPECT_THAT(Encode(Bpe(FileOf(json)), "tok"), ElementsAre('t' - 30, 'o' - 30, 'k' - 30));
}

TEST(Bpe, AnEmptyPieceIsNothing) {
  EXPECT_THAT(Encode(Bpe(FileOf(testing::SmallTokenizerJson())), ""), IsEmpty());
}

TEST(Bpe, AgreesWithTheDefinitionOnRandomVocabularies) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::string> tokens = {"a", "b", "c"};
    std::vector<std::pair<std::string, std::string>> merges;
    for (int i = 0; i < 60; ++i) {
      const std::string left = tokens[rng() % tokens.size()];
      const std::string right = tokens[rng() % tokens.size()];
      merges.emplace_back(left, right);
      tokens.push_back(left + right);
    }
    std::shuffle(merges.begin(), merges.end(), rng);
    const TokenizerFile file = FileOf(testing::TokenizerJsonWithMerges(merges));
    const Bpe bpe(file);
    for (int i = 0; i < 200; ++i) {
      std::string piece(rng() % 60, ' ');
      for (char& c : piece) c = static_cast<char>('a' + rng() % 3);
      ASSERT_EQ(Encode(bpe, piece), EncodeByDefinition(file, piece)) << piece;
    }
  }
}

}  // namespace
}  // namespace baleen::tokenizer
