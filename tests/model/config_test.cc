#include "model/config.h"

#include "nlohmann/json.hpp"
#include "tests/model/test_checkpoint.h"
#include "tests/testing/status_matchers.h"

namespace baleen::model {
namespace {

using ::baleen::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

const std::string kTiny = std::string(BALEEN_SOURCE_DIR) + "/models/tiny-dsv32";

Json TinyJson() { return Json::parse(testing::ReadFile(kTiny + "/config.json")); }

TEST(ModelConfig, ReadsTheTinyCheckpoint) {
  const auto config = LoadModelConfig(kTiny);
  BALEEN_ASSERT_OK(config);
  EXPECT_EQ(config->architecture, "DeepseekV32ForCausalLM");
  EXPECT_EQ(config->vocab_size, 4096);
  EXPECT_EQ(config->hidden_size, 256);
  EXPECT_EQ(config->num_hidden_layers, 4);
  EXPECT_EQ(config->qk_head_dim(), 192);
  EXPECT_EQ(config->n_routed_experts, 16);
  EXPECT_EQ(config->max_position_embeddings, 16384);
  EXPECT_TRUE(config->has_indexer);
  EXPECT_EQ(config->index_topk, 256);
  EXPECT_TRUE(config->has_mtp());
  EXPECT_FALSE(config->is_moe(0));
  EXPECT_TRUE(config->is_moe(1));
  EXPECT_TRUE(config->rope.yarn);
  EXPECT_EQ(config->rope.factor, 4);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(1));
}

TEST(ModelConfig, WithoutAnIndexerEveryKeyIsAttendedTo) {
  Json json = TinyJson();
  json["architectures"] = {"DeepseekV3ForCausalLM"};
  json["eos_token_id"] = {1, 5};
  for (const char* field : {"index_n_heads", "index_head_dim", "index_topk"}) json.erase(field);
  json.erase("quantization_config");
  json["rope_scaling"] = nullptr;
  const auto config = ParseModelConfig(json.dump(), "config.json");
  BALEEN_ASSERT_OK(config);
  EXPECT_FALSE(config->has_indexer);
  EXPECT_FALSE(config->fp8_experts);
  EXPECT_EQ(config->index_head_dim, 0);
  EXPECT_FALSE(config->rope.yarn);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(1, 5));
}

TEST(ModelConfig, MissingFileIsNotFound) {
  EXPECT_THAT(LoadModelConfig("/nowhere"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nowhere/config.json")));
}

TEST(ModelConfig, EveryRequiredFieldIsNamedWhenMissing) {
  for (const char* field : {"architectures",
                            "vocab_size",
                            "hidden_size",
                            "intermediate_size",
                            "moe_intermediate_size",
                            "num_hidden_layers",
                            "first_k_dense_replace",
                            "num_attention_heads",
                            "q_lora_rank",
                            "kv_lora_rank",
                            "qk_nope_head_dim",
                            "qk_rope_head_dim",
                            "v_head_dim",
                            "index_n_heads",
                            "index_head_dim",
                            "index_topk",
                            "n_routed_experts",
                            "n_shared_experts",
                            "num_experts_per_tok",
                            "n_group",
                            "topk_group",
                            "routed_scaling_factor",
                            "rms_norm_eps",
                            "max_position_embeddings"}) {
    Json json = TinyJson();
    json.erase(field);
    EXPECT_THAT(ParseModelConfig(json.dump(), "dir/config.json"),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(HasSubstr("dir/config.json"), HasSubstr(field))));
  }
}

struct BadField {
  const char* path;  // JSON pointer
  const char* value;
  const char* named;  // in the message
};

class BadConfig : public ::testing::TestWithParam<BadField> {};

TEST_P(BadConfig, IsRefusedByName) {
  Json json = TinyJson();
  json[Json::json_pointer(GetParam().path)] = Json::parse(GetParam().value);
  EXPECT_THAT(ParseModelConfig(json.dump(), "dir/config.json"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("dir/config.json: "), HasSubstr(GetParam().named))));
}

INSTANTIATE_TEST_SUITE_P(
    Fields, BadConfig,
    ::testing::Values(
        BadField{"/architectures", R"(["LlamaForCausalLM"])", "LlamaForCausalLM"},
        BadField{"/architectures", R"("DeepseekV32ForCausalLM")", "architectures"},
        BadField{"/vocab_size", "0", "vocab_size is 0"},
        BadField{"/vocab_size", "1.5", "vocab_size must be a whole number"},
        BadField{"/hidden_size", R"("256")", "hidden_size must be a whole number"},
        BadField{"/hidden_size", "-1", "hidden_size is -1"},
        BadField{"/hidden_size", "18446744073709551615", "hidden_size is 18446744073709551615"},
        BadField{"/first_k_dense_replace", "5", "first_k_dense_replace"},
        BadField{"/num_nextn_predict_layers", "2", "num_nextn_predict_layers"},
        BadField{"/moe_layer_freq", "2", "moe_layer_freq"},
        BadField{"/kv_lora_rank", "500", "kv_lora_rank must be a multiple of 128"},
        BadField{"/qk_rope_head_dim", "63", "qk_rope_head_dim"},
        BadField{"/index_head_dim", "32", "index_head_dim"},
        BadField{"/attention_bias", "true", "attention_bias"},
        BadField{"/attention_bias", "0", "attention_bias must be true or false"},
        BadField{"/n_group", "3", "n_group must divide n_routed_experts"},
        BadField{"/n_group", "16", "n_group"}, BadField{"/topk_group", "5", "topk_group"},
        BadField{"/num_experts_per_tok", "9", "num_experts_per_tok"},
        BadField{"/scoring_func", R"("softmax")", "scoring_func is \"softmax\""},
        BadField{"/topk_method", "3", "topk_method must be a string"},
        BadField{"/hidden_act", R"("gelu")", "hidden_act"},
        BadField{"/rms_norm_eps", "0", "rms_norm_eps"},
        BadField{"/tie_word_embeddings", "true", "tie_word_embeddings"},
        BadField{"/eos_token_id", "4096", "eos_token_id"},
        BadField{"/rope_scaling", "3", "rope_scaling"},
        BadField{"/rope_scaling/type", R"("linear")", "rope_scaling.type"},
        BadField{"/rope_scaling/factor", "0.5", "rope_scaling.factor"},
        BadField{"/quantization_config/quant_method", R"("awq")", "quantization_config.quant"},
        BadField{"/quantization_config/weight_block_size", "[64, 64]", "weight_block_size"}));

TEST(ModelConfig, TextThatIsNoObjectIsRefused) {
  for (const char* text : {"", "[]", "{\"vocab_size\": ", "3"}) {
    EXPECT_THAT(ParseModelConfig(text, "c.json"),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("c.json")));
  }
}

}  // namespace
}  // namespace baleen::model
