#include "router/model_info.h"

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "router/api/tiny_model.h"
#include "testing/status_matchers.h"

namespace baleen::router {
namespace {

using baleen::testing::IsOk;
using baleen::testing::StatusIs;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

constexpr char kTiny[] = BALEEN_SOURCE_DIR "/models/tiny-dsv32";

// A checkpoint folder with the tiny tokenizer and files of our own.
class ModelInfoTest : public ::testing::Test {
 protected:
  ModelInfoTest()
      : directory_(fs::path(::testing::TempDir()) /
                   ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
    fs::copy(fs::path(kTiny) / "tokenizer.json", directory_);
    Write("config.json", R"({"vocab_size":4096,"max_position_embeddings":64,"eos_token_id":1})");
  }
  void Write(const char* name, const char* text) { std::ofstream(directory_ / name) << text; }
  absl::StatusOr<ModelInfo> Load() { return ModelInfo::Load(directory_.string(), ""); }
  const fs::path directory_;
};

TEST_F(ModelInfoTest, ReadsTheTinyCheckpoint) {
  const ModelInfo& model = TinyModel();
  EXPECT_EQ(model.vocab_size, 4096);
  EXPECT_EQ(model.max_context, 16384);
  EXPECT_TRUE(model.IsEos(1));
  EXPECT_EQ(model.chat_style, chat::ChatStyle::kV32);
  EXPECT_EQ(model.OwnFingerprint()[0].second, model.tokenizer->hash());
  EXPECT_EQ(model.OwnFingerprint()[1].second.size(), 16u);
}

TEST_F(ModelInfoTest, TheNameIsTheDirectorysUnlessGiven) {
  const auto model = Load();
  ASSERT_THAT(model, IsOk());
  EXPECT_EQ(model->name, "TheNameIsTheDirectorysUnlessGiven");
  EXPECT_EQ(model->default_top_p, 0.95f);  // without a generation_config.json
}

TEST_F(ModelInfoTest, GenerationConfigSetsTheDefaults) {
  Write("generation_config.json",
        R"({"temperature":0.5,"top_p":0.75,"eos_token_id":[1,7],"do_sample":true})");
  const auto model = Load();
  ASSERT_THAT(model, IsOk());
  EXPECT_EQ(model->default_temperature, 0.5f);
  EXPECT_EQ(model->default_top_p, 0.75f);
  EXPECT_EQ(model->extra_eos, std::vector<uint32_t>{7});
  Write("generation_config.json", R"({"do_sample":false})");
  EXPECT_EQ(Load()->default_temperature, 0);
}

TEST_F(ModelInfoTest, TheTokenizersConfigHasItsTokensAsText) {
  EXPECT_EQ(Load()->tokenizer_config, "");
  Write("tokenizer_config.json", R"({"eos_token":{"__type":"AddedToken","content":"</s>"},
      "bos_token":"<s>","pad_token":null,"extra":{"content":[1]},
      "model_max_length":1000000000000000019884624838656})");
  const auto model = Load();
  ASSERT_THAT(model, IsOk());
  EXPECT_EQ(
      model->tokenizer_config,
      R"({"eos_token": "</s>", "bos_token": "<s>", "pad_token": null, "extra": {"content": [1]},)"
      R"( "model_max_length": 1000000000000000019884624838656})");
  Write("tokenizer_config.json", "[]");
  EXPECT_THAT(Load(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tokenizer_config.json")));
}

TEST_F(ModelInfoTest, ErrorsNameTheFileAndTheField) {
  EXPECT_THAT(ModelInfo::Load("/nowhere/at/all", ""),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nowhere/at/all")));
  EXPECT_THAT(ModelInfo::Load("", ""),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("model")));
  Write("config.json", R"({"vocab_size":4096})");
  EXPECT_THAT(Load(), StatusIs(absl::StatusCode::kInvalidArgument,
                               HasSubstr("config.json: max_position_embeddings")));
  Write("config.json", "{");
  EXPECT_THAT(Load(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("config.json")));
  fs::remove(directory_ / "config.json");
  EXPECT_THAT(Load(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("config.json")));
}

}  // namespace
}  // namespace baleen::router
