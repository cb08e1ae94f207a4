// The 18 long prompts of golden/recall.json, through chat encoding, tokenizer and engine.
#include <fstream>

#include "engine/local_model.h"
#include "model/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"
#include "router/chat/chat_encoder.h"
#include "router/chat/chat_request.h"
#include "tests/testing/status_matchers.h"

namespace baleen::tools {
namespace {

using nlohmann::ordered_json;

const std::string kTiny = std::string(BALEEN_SOURCE_DIR) + "/models/tiny-dsv32";

class Recall : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Drafts, Recall, ::testing::Values(0, 3));

TEST_P(Recall, EveryNumberIsRight) {
  std::ifstream in(kTiny + "/golden/recall.json");
  const ordered_json prompts = ordered_json::parse(in);
  ASSERT_EQ(prompts.size(), 18);
  const auto tokenizer = tokenizer::Tokenizer::Load(kTiny + "/tokenizer.json");
  BALEEN_ASSERT_OK(tokenizer);
  const auto local = engine::LocalModel::Create(
      {.directory = kTiny, .threads = 2, .drafts = GetParam(), .chunk_tokens = 512});
  BALEEN_ASSERT_OK(local);
  for (const ordered_json& prompt : prompts) {
    const auto messages = chat::ParseChatMessages(prompt);
    BALEEN_ASSERT_OK(messages);
    const auto ids = (*tokenizer)->Encode(chat::EncodeChat(*messages, chat::ChatStyle::kV32)->text);
    BALEEN_ASSERT_OK(ids);
    EXPECT_EQ(ids->size(), prompt["prompt_tokens"]);
    const auto result = (*local)->engine().Generate(*ids, {.max_new_tokens = 40, .temperature = 0});
    BALEEN_ASSERT_OK(result.status);
    const std::string answer = (*tokenizer)->Decode(result.tokens, /*skip_special=*/true);
    EXPECT_EQ(answer, prompt["answer"].get<std::string>()) << ids->size() << " tokens";
  }
}

}  // namespace
}  // namespace baleen::tools
