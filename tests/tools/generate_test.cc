#include "tools/generate.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "nlohmann/json.hpp"
#include "tests/testing/status_matchers.h"

namespace baleen::tools {
namespace {

using ::baleen::testing::StatusIs;
using nlohmann::json;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

const std::string kTiny = std::string(BALEEN_SOURCE_DIR) + "/models/tiny-dsv32";

const json& Story() {
  static const auto* story = [] {
    std::ifstream in(kTiny + "/golden/golden.json");
    return new json(json::parse(in)["prompts"]["story"]);
  }();
  return *story;
}

absl::StatusOr<std::string> RunText(std::vector<std::string> args) {
  args.insert(args.begin(), {"--max-tokens", "96"});
  const auto options = ParseGenerateOptions(args);
  if (!options.ok()) return options.status();
  std::ostringstream out;
  const absl::Status status = Generate(*options, out);
  if (!status.ok()) return status;
  return out.str();
}

json RunJson(std::vector<std::string> args) {
  args.push_back("--json");
  const auto out = RunText(args);
  EXPECT_TRUE(out.ok()) << out.status();
  return json::parse(out.value_or("null"));
}

// A file in a folder of its own, removed at the end.
class TempFolder {
 public:
  TempFolder() : path_(fs::path(::testing::TempDir()) / ("generate_" + std::to_string(getpid()))) {
    fs::create_directories(path_);
  }
  ~TempFolder() { fs::remove_all(path_); }
  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name) << text;
    return path_ / name;
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::string JoinedIds(const json& ids) {
  std::string text;
  for (int id : ids) text += (text.empty() ? "" : ",") + std::to_string(id);
  return text;
}

TEST(Generate, TextIdsAndChatGiveTheGoldenStory) {
  const TempFolder folder;
  const std::string chat = folder.Write(
      "chat.json",
      R"({"messages": [{"role": "user", "content": "Tell me a story about a fox named Pip."}]})");
  const std::vector<std::vector<std::string>> prompts = {
      {"--prompt", Story()["text"]},
      {"--prompt-ids", JoinedIds(Story()["prompt_ids"]), "--drafts", "3"},
      {"--chat", chat, "--chunk", "5", "--drafts", "0"}};
  for (std::vector<std::string> args : prompts) {
    args.insert(args.end(), {"--model", kTiny});
    const json result = RunJson(args);
    EXPECT_EQ(result["prompt_tokens"], Story()["prompt_ids"].size());
    EXPECT_EQ(result["ids"], Story()["greedy_ids"]);
    std::string text = Story()["greedy_text"];
    if (result["finish_reason"] == "stop") text = text.substr(0, text.rfind("<｜end"));
    EXPECT_EQ(result["text"], text);
    EXPECT_FALSE(result.contains("logprobs"));
  }
}

// The checkpoint with one file replaced.
std::string Variant(const TempFolder& folder, const std::string& file, const std::string& text) {
  for (const auto& entry : fs::directory_iterator(kTiny))
    if (entry.path().filename() != file && !entry.is_directory())
      fs::create_symlink(entry.path(), folder.path() / entry.path().filename());
  folder.Write(file, text);
  return folder.path();
}

TEST(Generate, EndsAtWhatOnlyTheGenerationConfigNames) {
  const TempFolder folder;
  const int end = Story()["greedy_ids"][3];
  const std::string model =
      Variant(folder, "generation_config.json", json({{"eos_token_id", {1, end}}}).dump());
  const std::vector<std::string> args = {"--model", model, "--prompt", Story()["text"]};
  const json result = RunJson(args);
  EXPECT_EQ(result["ids"].size(), 4u);
  EXPECT_EQ(result["finish_reason"], "stop");
  std::vector<std::string> ignoring = args;
  ignoring.insert(ignoring.end(), {"--ignore-eos", "--max-tokens", "9"});
  EXPECT_EQ(RunJson(ignoring)["ids"].size(), 9u);
}

TEST(Generate, TheTokenizerDecidesHowAChatIsWritten) {
  const TempFolder folder;
  std::ifstream in(kTiny + "/tokenizer.json");
  json tokenizer = json::parse(in);
  for (json& token : tokenizer["added_tokens"])
    if (token["content"] == "｜DSML｜") token["content"] = "｜other｜";
  const std::string model = Variant(folder, "tokenizer.json", tokenizer.dump());
  const std::string chat = folder.Write(
      "chat.json", R"({"messages": [{"role": "user", "content": "Hi"}], "tools": [{"type":
      "function", "function": {"name": "f", "parameters": {}}}]})");
  const std::vector<std::string> more = {"--chat", chat, "--max-tokens", "1"};
  std::vector<std::string> v31 = {"--model", model}, v32 = {"--model", kTiny};
  v31.insert(v31.end(), more.begin(), more.end());
  v32.insert(v32.end(), more.begin(), more.end());
  EXPECT_LT(RunJson(v31)["prompt_tokens"], RunJson(v32)["prompt_tokens"]);
}

// All 18 are in recall_test, which is slow.
TEST(Generate, RecallsANumberFromTheNotes) {
  const TempFolder folder;
  std::ifstream in(kTiny + "/golden/recall.json");
  const json prompts = json::parse(in);
  for (int i : {0, 4, 7}) {
    const json result = RunJson({"--model", kTiny, "--chat",
                                 folder.Write("chat.json", prompts[i].dump()), "--drafts", "2"});
    EXPECT_EQ(result["prompt_tokens"], prompts[i]["prompt_tokens"]);
    EXPECT_EQ(result["text"], prompts[i]["answer"]);
    EXPECT_EQ(result["finish_reason"], "stop");
  }
}

TEST(Generate, WritesPlainTextAsItComes) {
  const auto out = RunText({"--model", kTiny, "--prompt", Story()["text"]});
  BALEEN_ASSERT_OK(out);
  const std::string golden = Story()["greedy_text"];
  EXPECT_EQ(out->substr(0, 60), golden.substr(0, 60));
  EXPECT_EQ(out->back(), '\n');
}

TEST(Generate, LogprobsAreOneATokenInOrder) {
  const json result = RunJson(
      {"--model", kTiny, "--prompt-ids", JoinedIds(Story()["prompt_ids"]), "--top-logprobs", "2"});
  ASSERT_EQ(result["logprobs"].size(), result["ids"].size());
  for (size_t i = 0; i < result["ids"].size(); ++i) {
    const json& entry = result["logprobs"][i];
    EXPECT_EQ(entry["id"], result["ids"][i]);
    ASSERT_EQ(entry["top"].size(), 2);
    EXPECT_EQ(entry["top"][0][0], entry["id"]);
    EXPECT_GE(entry["top"][0][1], entry["top"][1][1]);
  }
}

TEST(Generate, ASeedGivesOneStory) {
  const auto run = [](const char* seed, const char* drafts) {
    return RunJson({"--model", kTiny, "--prompt", Story()["text"], "--temperature", "1", "--seed",
                    seed, "--drafts", drafts})["ids"];
  };
  EXPECT_EQ(run("5", "0"), run("5", "2"));
  EXPECT_NE(run("5", "0"), run("6", "0"));
}

TEST(Generate, WithIdsItNeedsNoTokenizer) {
  const TempFolder folder;
  for (const auto& entry : fs::directory_iterator(kTiny)) {
    const std::string name = entry.path().filename();
    if (!entry.is_regular_file() || name.rfind("tokenizer", 0) == 0) continue;
    fs::create_symlink(entry.path(), folder.path() / name);
  }
  const json result =
      RunJson({"--model", folder.path(), "--prompt-ids", JoinedIds(Story()["prompt_ids"])});
  EXPECT_EQ(result["ids"], Story()["greedy_ids"]);
  EXPECT_FALSE(result.contains("text"));
  EXPECT_THAT(RunText({"--model", folder.path(), "--prompt", "x"}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("tokenizer.json")));
}

TEST(Generate, SaysWhatIsWrong) {
  const TempFolder folder;
  using absl::StatusCode;
  EXPECT_THAT(RunText({"--model", "/nowhere", "--prompt-ids", "1"}),
              StatusIs(StatusCode::kNotFound, HasSubstr("/nowhere")));
  EXPECT_THAT(RunText({"--model", kTiny, "--prompt-ids", "4096"}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("4096")));
  EXPECT_THAT(RunText({"--model", kTiny, "--prompt", ""}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("empty")));
  EXPECT_THAT(RunText({"--model", kTiny, "--prompt", "x", "--max-tokens", "0"}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("max_new_tokens")));
  EXPECT_THAT(RunText({"--model", kTiny, "--prompt", "x", "--drafts", "4"}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("drafts")));
  EXPECT_THAT(RunText({"--model", kTiny, "--chat", "/nowhere.json"}),
              StatusIs(StatusCode::kNotFound, HasSubstr("/nowhere.json")));
  EXPECT_THAT(RunText({"--model", kTiny, "--chat", folder.Write("bad.json", "{")}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("byte")));
}

}  // namespace
}  // namespace baleen::tools
