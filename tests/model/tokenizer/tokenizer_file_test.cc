#include "model/tokenizer/tokenizer_file.h"

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "testing/status_matchers.h"
#include "testing/synthetic_tokenizer.h"

namespace baleen::tokenizer {
namespace {

using ::baleen::testing::Json;
using ::baleen::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(ParseTokenizerFile, ReadsMergesInBothForms) {
  Json json = testing::TokenizerJsonWithMerges({{"a", "b"}, {"Ġ", "ab"}});
  json["model"]["merges"][1] = {"Ġ", "ab"};
  const auto file = ParseTokenizerFile(json.dump(), "f");
  BALEEN_ASSERT_OK(file);
  ASSERT_EQ(file->merges.size(), 2u);
  EXPECT_EQ(file->merges[0].left, 'a' - 30);
  EXPECT_EQ(file->merges[0].merged, 259);
  EXPECT_EQ(file->merges[1].left, file->byte_ids[' ']);
  EXPECT_EQ(file->merges[1].right, 259);
  EXPECT_EQ(file->merges[1].merged, 260);
  EXPECT_EQ(file->split_patterns.size(), 3u);
  ASSERT_EQ(file->added_tokens.size(), 3u);
  EXPECT_TRUE(file->added_tokens[2].special);
}

// Section 6.1: byte symbols are ids 3..258 in the order of their code points.
TEST(ParseTokenizerFile, FindsTheTokenOfEveryByte) {
  const auto file = ParseTokenizerFile(testing::SmallTokenizerJson().dump(), "f");
  BALEEN_ASSERT_OK(file);
  EXPECT_EQ(file->byte_ids['!'], 3);
  EXPECT_EQ(file->byte_ids['1'], 19);
  EXPECT_EQ(file->byte_ids['\t'], 200);
  EXPECT_EQ(file->byte_ids['\n'], 201);
  EXPECT_EQ(file->byte_ids['\r'], 204);
  EXPECT_EQ(file->byte_ids[' '], 223);
}

TEST(ParseTokenizerFile, AcceptsWhatChangesNothing) {
  Json json = testing::SmallTokenizerJson();
  json["normalizer"] = nullptr;
  json["post_processor"] = {{"type", "ByteLevel"}};
  json["model"]["end_of_word_suffix"] = "";
  json["model"].erase("type");
  json.erase("added_tokens");
  BALEEN_EXPECT_OK(ParseTokenizerFile(json.dump(), "f"));
}

struct BadFile {
  const char* field;  // that the message must name
  absl::StatusCode code;
  std::function<void(Json&)> spoil;
};

constexpr auto kBad = absl::StatusCode::kInvalidArgument;
constexpr auto kUnsupported = absl::StatusCode::kFailedPrecondition;

void ExpectErrors(const std::vector<BadFile>& cases) {
  for (const BadFile& c : cases) {
    Json json = testing::TokenizerJsonWithMerges({{"a", "b"}});
    c.spoil(json);
    EXPECT_THAT(ParseTokenizerFile(json.dump(), "dir/tokenizer.json"),
                StatusIs(c.code, AllOf(StartsWith("dir/tokenizer.json: "),
                                       HasSubstr(std::string(c.field) + ": "))))
        << c.field;
  }
}

TEST(ParseTokenizerFile, NamesTheBadFieldOfTheModel) {
  ExpectErrors({
      {"(file)", kBad, [](Json& j) { j = Json::array(); }},
      {"model", kBad, [](Json& j) { j.erase("model"); }},
      {"model", kBad, [](Json& j) { j["model"] = 3; }},
      {"model.vocab", kBad, [](Json& j) { j["model"].erase("vocab"); }},
      {"model.vocab", kBad, [](Json& j) { j["model"]["vocab"].erase("Ġ"); }},
      {"model.vocab[\"a\"]", kBad, [](Json& j) { j["model"]["vocab"]["a"] = -1; }},
      {"model.vocab[\"a\"]", kBad, [](Json& j) { j["model"]["vocab"]["a"] = 1 << 24; }},
      {"model.vocab[\"a\"]", kBad, [](Json& j) { j["model"]["vocab"]["a"] = "x"; }},
      {"model.vocab[\"a\"]", kBad, [](Json& j) { j["model"]["vocab"]["a"] = 1e30; }},
      {"model.vocab[\"b\"]", kBad, [](Json& j) { j["model"]["vocab"]["b"] = 'a' - 30; }},
      {"model.merges", kBad, [](Json& j) { j["model"].erase("merges"); }},
      {"model.merges[0]", kBad, [](Json& j) { j["model"]["merges"][0] = "ab"; }},
      {"model.merges[0]", kBad, [](Json& j) { j["model"]["merges"][0] = "a b c"; }},
      {"model.merges[0]", kBad, [](Json& j) { j["model"]["merges"][0] = {"a"}; }},
      {"model.merges[0]", kBad, [](Json& j) { j["model"]["merges"][0] = 5; }},
      {"model.merges[1]", kBad, [](Json& j) { j["model"]["merges"].push_back("a xyz"); }},
      {"model.merges[1]", kBad, [](Json& j) { j["model"]["merges"].push_back("b a"); }},
      {"model.type", kUnsupported, [](Json& j) { j["model"]["type"] = "Unigram"; }},
      {"model.byte_fallback", kUnsupported, [](Json& j) { j["model"]["byte_fallback"] = true; }},
      {"model.dropout", kUnsupported, [](Json& j) { j["model"]["dropout"] = 0.1; }},
      {"model.end_of_word_suffix", kUnsupported,
       [](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }},
  });
}

TEST(ParseTokenizerFile, NamesTheBadFieldAroundTheModel) {
  const auto step = [](Json& j, int i) -> Json& { return j["pre_tokenizer"]["pretokenizers"][i]; };
  ExpectErrors({
      {"added_tokens", kBad, [](Json& j) { j["added_tokens"] = "x"; }},
      {"added_tokens", kBad, [](Json& j) { j["added_tokens"][1]["id"] = 0; }},
      {"added_tokens", kBad, [](Json& j) { j["added_tokens"][1]["id"] = 1000; }},
      {"added_tokens", kBad, [](Json& j) { j["added_tokens"][1]["content"] = "q"; }},
      {"added_tokens", kBad,
       [](Json& j) { j["added_tokens"][1]["content"] = j["added_tokens"][0]["content"]; }},
      {"added_tokens[2]", kBad, [](Json& j) { j["added_tokens"][2] = 7; }},
      {"added_tokens[2].id", kBad, [](Json& j) { j["added_tokens"][2].erase("id"); }},
      {"added_tokens[2].content", kBad, [](Json& j) { j["added_tokens"][2]["content"] = ""; }},
      {"added_tokens[2].lstrip", kUnsupported,
       [](Json& j) { j["added_tokens"][2]["lstrip"] = true; }},
      {"normalizer", kUnsupported,
       [](Json& j) {
         j["normalizer"] = {{"type", "NFC"}};
       }},
      {"normalizer", kUnsupported,
       [](Json& j) {
         j["normalizer"]["normalizers"] = Json::array({{{"type", "NFC"}}});
       }},
      {"pre_tokenizer", kBad, [](Json& j) { j.erase("pre_tokenizer"); }},
      {"pre_tokenizer.type", kUnsupported, [](Json& j) { j["pre_tokenizer"]["type"] = "Bert"; }},
      {"pre_tokenizer.pretokenizers", kBad,
       [](Json& j) { j["pre_tokenizer"]["pretokenizers"] = Json::array(); }},
      {"pre_tokenizer.pretokenizers[0].type", kUnsupported,
       [&](Json& j) { step(j, 0)["type"] = "Digits"; }},
      {"pre_tokenizer.pretokenizers[1].behavior", kUnsupported,
       [&](Json& j) { step(j, 1)["behavior"] = "Removed"; }},
      {"pre_tokenizer.pretokenizers[1].invert", kUnsupported,
       [&](Json& j) { step(j, 1)["invert"] = true; }},
      {"pre_tokenizer.pretokenizers[1].pattern", kUnsupported,
       [&](Json& j) {
         step(j, 1)["pattern"] = {{"String", " "}};
       }},
      {"pre_tokenizer.pretokenizers[3].type", kUnsupported,
       [&](Json& j) { step(j, 3)["type"] = "Split"; }},
      {"pre_tokenizer.pretokenizers[3].use_regex", kUnsupported,
       [&](Json& j) { step(j, 3).erase("use_regex"); }},
      {"pre_tokenizer.pretokenizers[3].add_prefix_space", kUnsupported,
       [&](Json& j) { step(j, 3)["add_prefix_space"] = true; }},
      {"decoder.type", kUnsupported, [](Json& j) { j["decoder"] = nullptr; }},
      {"decoder.type", kUnsupported, [](Json& j) { j["decoder"]["type"] = "Metaspace"; }},
  });
}

TEST(ParseTokenizerFile, SaysWhereTheJsonEnds) {
  std::string text = testing::SmallTokenizerJson().dump();
  text.resize(text.size() / 2);
  EXPECT_THAT(ParseTokenizerFile(text, "f"),
              StatusIs(kBad, AllOf(StartsWith("f: not JSON: "), HasSubstr("column"))));
  EXPECT_THAT(ParseTokenizerFile("", "f"), StatusIs(kBad, HasSubstr("not JSON")));
}

TEST(ParseTokenizerFile, SurvivesRandomDamage) {
  const std::string text = testing::TokenizerJsonWithMerges({{"a", "b"}}).dump();
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  for (int i = 0; i < 300; ++i) {
    std::string damaged = text;
    for (int n = 1 + static_cast<int>(rng() % 3); n > 0; --n) {
      damaged[rng() % damaged.size()] = "{}[]\",:0a"[rng() % 9];
    }
    const auto file = ParseTokenizerFile(damaged, "f");
    if (!file.ok()) {
      EXPECT_THAT(std::string(file.status().message()), StartsWith("f: "));
    }
  }
}

}  // namespace
}  // namespace baleen::tokenizer
