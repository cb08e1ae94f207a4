#include "model/tokenizer/tokenizer.h"

#include <ctime>
#include <fstream>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/tokenizer/utf8.h"
#include "nlohmann/json.hpp"
#include "testing/status_matchers.h"
#include "testing/synthetic_tokenizer.h"

namespace baleen::tokenizer {
namespace {

using ::baleen::testing::Json;
using ::baleen::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kTiny[] = BALEEN_SOURCE_DIR "/models/tiny-dsv32/";

const Tokenizer& Tiny() {
  static const Tokenizer& tokenizer = *[] {
    auto loaded = Tokenizer::Load(std::string(kTiny) + "tokenizer.json");
    BALEEN_EXPECT_OK(loaded);
    return loaded->release();
  }();
  return tokenizer;
}

std::vector<int32_t> Ids(const Tokenizer& tokenizer, absl::string_view text,
                         const EncodeOptions& options = {}) {
  auto ids = tokenizer.Encode(text, options);
  BALEEN_EXPECT_OK(ids);
  return ids.value_or(std::vector<int32_t>{});
}

void ExpectGolden(const Json& entry) {
  const std::string text = entry["text"];
  const std::vector<int32_t> ids = entry["ids"];
  EXPECT_EQ(Ids(Tiny(), text), ids) << entry["text"];
  EXPECT_EQ(Tiny().Decode(ids, /*skip_special=*/false), text);
}

TEST(Tokenizer, GivesTheIdsOfTheReferenceLibrary) {
  const Json golden =
      Json::parse(std::ifstream(std::string(kTiny) + "golden/tokenizer_golden.json"));
  ASSERT_GE(golden.size(), 18u);
  for (const Json& entry : golden) ExpectGolden(entry);
}

// Written by make_random_golden.py, which says what is in it.
TEST(Tokenizer, GivesTheIdsOfTheReferenceLibraryForRandomTexts) {
  std::ifstream file(BALEEN_SOURCE_DIR "/tests/model/tokenizer/random_golden.jsonl");
  int cases = 0;
  for (std::string line; std::getline(file, line); ++cases) ExpectGolden(Json::parse(line));
  EXPECT_EQ(cases, 300);
}

TEST(Tokenizer, GivesThePromptsAndAnswersOfTheGoldenRuns) {
  const Json golden = Json::parse(std::ifstream(std::string(kTiny) + "golden/golden.json"));
  ASSERT_EQ(golden["prompts"].size(), 5u);
  for (const Json& prompt : golden["prompts"]) {
    ExpectGolden(Json{{"text", prompt["text"]}, {"ids", prompt["prompt_ids"]}});
    const std::vector<int32_t> answer = prompt["greedy_ids"];
    EXPECT_EQ(Tiny().Decode(answer, /*skip_special=*/false), prompt["greedy_text"]);
  }
}

// Section 6.3 as far as this vocabulary has it: bytes and added tokens, on the real layout of ids.
TEST(Tokenizer, AddedTokensAndBytesHaveTheirIds) {
  EXPECT_THAT(Ids(Tiny(), "<｜begin▁of▁sentence｜>1+1!"), ElementsAre(0, 19, 13, 19, 3));
  EXPECT_THAT(Ids(Tiny(), "<think>\n"), ElementsAre(*Tiny().TokenId("<think>"), 201));
  EXPECT_THAT(Ids(Tiny(), "<｜DSML｜"), ElementsAre(30, *Tiny().TokenId("｜DSML｜")));
}

TEST(Tokenizer, WithoutSplittingAddedTokensTheyAreOrdinaryText) {
  const std::string text = "x<｜User｜>hi<think>｜DSML｜<｜end▁of▁sentence｜>";
  const std::vector<int32_t> ids = Ids(Tiny(), text, {.split_added_tokens = false});
  for (const int32_t id : ids) EXPECT_FALSE(Tiny().IsAdded(id)) << id;
  EXPECT_EQ(Tiny().Decode(ids, /*skip_special=*/true), text);
  EXPECT_NE(ids, Ids(Tiny(), text));
}

TEST(Tokenizer, NothingIsAddedToEmptyText) { EXPECT_THAT(Ids(Tiny(), ""), IsEmpty()); }

TEST(Tokenizer, NamesTheOffsetOfInvalidUtf8) {
  EXPECT_THAT(Tiny().Encode("ab\xC3("),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("byte 2")));
  EXPECT_THAT(Tiny().Encode("日\xED\xA0\x80"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("byte 3")));
}

TEST(Tokenizer, KnowsWhichIdsHaveATokenAndOfWhatKind) {
  Json json = testing::SmallTokenizerJson();
  json["added_tokens"].push_back(testing::AddedTokenJson(400, "<think>", false));
  const auto tokenizer = Tokenizer::Parse(json.dump(), "test");
  BALEEN_ASSERT_OK(tokenizer);
  const Tokenizer& t = **tokenizer;
  EXPECT_EQ(t.vocab_limit(), 401);
  EXPECT_EQ(t.max_token_bytes(), absl::string_view("<｜begin▁of▁sentence｜>").size());
  EXPECT_TRUE(t.HasToken(0) && t.IsAdded(0) && t.IsSpecial(0));
  EXPECT_TRUE(t.HasToken(400) && t.IsAdded(400) && !t.IsSpecial(400));
  EXPECT_TRUE(t.HasToken(3) && !t.IsAdded(3) && !t.IsSpecial(3));
  for (const int32_t id : {259, 399, 401, -1, 1 << 30}) {
    EXPECT_FALSE(t.HasToken(id) || t.IsAdded(id) || t.IsSpecial(id)) << id;
    EXPECT_EQ(t.TokenBytes(id), "") << id;
  }
  EXPECT_EQ(t.TokenBytes(223), " ");
  EXPECT_EQ(t.TokenBytes(400), "<think>");
  EXPECT_EQ(t.TokenId("<think>"), 400);
  EXPECT_EQ(t.TokenId("!"), std::nullopt) << "only added tokens have a name";
}

TEST(Tokenizer, TheHashFollowsTheFile) {
  const std::string json = testing::SmallTokenizerJson().dump();
  const auto a = Tokenizer::Parse(json, "a"), b = Tokenizer::Parse(json, "b"),
             c = Tokenizer::Parse(json + "\n", "c");
  BALEEN_ASSERT_OK(a);
  BALEEN_ASSERT_OK(b);
  BALEEN_ASSERT_OK(c);
  EXPECT_EQ((*a)->hash(), (*b)->hash());
  EXPECT_NE((*a)->hash(), (*c)->hash());
  EXPECT_EQ((*a)->hash().size(), 16u);
}

TEST(Tokenizer, ErrorsOfTheFileNameItsPath) {
  EXPECT_THAT(Tokenizer::Load("/no/such/tokenizer.json"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/no/such/tokenizer.json")));
  EXPECT_THAT(Tokenizer::Load(kTiny),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(kTiny)));
  EXPECT_THAT(Tokenizer::Load(std::string(kTiny) + "config.json"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("config.json: model: ")));
  Json json = testing::SmallTokenizerJson();
  json["pre_tokenizer"]["pretokenizers"][1]["pattern"]["Regex"] = "\\w";
  EXPECT_THAT(Tokenizer::Parse(json.dump(), "t.json"),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("t.json: pre_tokenizer.pretokenizers: pattern 1: ")));
}

// Any valid UTF-8, a mixture of ranges so that all classes of the patterns meet.
std::string RandomText(std::mt19937* rng) {
  static const std::vector<std::string> words = {
      " ",   "\n",      "\r\n", "  ", "the", "<｜User｜>", "<｜",
      "｜>", "<think>", "123",  "é",  "中",  "👩‍👩"};
  std::string text;
  for (auto parts = (*rng)() % 60; parts > 0; --parts) {
    if ((*rng)() % 2 == 0) {
      text += words[(*rng)() % words.size()];
      continue;
    }
    const uint32_t limits[] = {0x80, 0x100, 0x800, 0x3100, 0xD800, 0x110000};
    const uint32_t code_point = static_cast<uint32_t>((*rng)() % limits[(*rng)() % 6]);
    if (code_point < 0xD800 || code_point > 0xDFFF) AppendUtf8(code_point, &text);
  }
  return text;
}

TEST(Tokenizer, DecodeUndoesEncode) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  for (int i = 0; i < 5000; ++i) {
    const std::string text = RandomText(&rng);
    const EncodeOptions options = {.split_added_tokens = rng() % 2 == 0};
    ASSERT_EQ(Tiny().Decode(Ids(Tiny(), text, options), /*skip_special=*/false), text);
  }
}

TEST(Tokenizer, OneLongWordTakesNoQuadraticTime) {
  std::mt19937 rng(7);
  for (const int letters : {1, 26}) {
    std::string word(1 << 20, 'a');
    for (char& c : word) c = static_cast<char>('a' + rng() % letters);
    const std::clock_t start = std::clock();
    const std::vector<int32_t> ids = Ids(Tiny(), word);
    EXPECT_LT(std::clock() - start, 20 * CLOCKS_PER_SEC);  // quadratic would be hours
    EXPECT_EQ(Tiny().Decode(ids, false), word);
  }
}

TEST(Tokenizer, LoadsAVocabularyOfFullSizeWithMergesInEitherForm) {
  std::set<std::vector<int32_t>> results;
  for (const bool as_pairs : {false, true}) {
    const std::string json = testing::FullSizeTokenizerJson(as_pairs).dump();
    const std::clock_t start = std::clock();
    const auto tokenizer = Tokenizer::Parse(json, "full");
    // Measured: see bench/tokenizer_bench. The slack is for sanitizers.
    EXPECT_LT(std::clock() - start, 30 * CLOCKS_PER_SEC);
    BALEEN_ASSERT_OK(tokenizer);
    EXPECT_EQ((*tokenizer)->vocab_limit(), 128815);
    const std::string text =
        "<｜place▁holder▁no▁799｜>the quick brown fox; 日本語 <｜place▁holder▁no▁81｜>";
    const std::vector<int32_t> ids = Ids(**tokenizer, text);
    EXPECT_EQ(ids.front(), 128799);
    EXPECT_EQ(ids.back(), 128081);
    EXPECT_EQ((*tokenizer)->Decode(ids, false), text);
    results.insert(ids);
  }
  EXPECT_EQ(results.size(), 1u) << "both forms give the same ids";
}

TEST(Tokenizer, MayBeUsedFromManyThreads) {
  const std::string text = "The <｜User｜> of 12345 houses, 中文 too.\n\n";
  const std::vector<int32_t> want = Ids(Tiny(), text);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 200; ++n) {
        EXPECT_EQ(Ids(Tiny(), text), want);
        EXPECT_EQ(Tiny().Decode(want, false), text);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace baleen::tokenizer
