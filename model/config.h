#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baleen::model {

// config.json's `rope_scaling`; `factor` 1 and no YaRN when the file has none (section 3.2).
struct RopeConfig {
  double theta = 10000;
  bool yarn = false;
  double factor = 1;
  int original_max_position = 0;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 1;
  double mscale_all_dim = 1;
};

// The sizes and switches of a checkpoint, checked (section 1 of docs/model.md). Names follow
// config.json where it has the field.
struct ModelConfig {
  std::string architecture;  // "DeepseekV32ForCausalLM" or "DeepseekV3ForCausalLM"
  int vocab_size = 0;
  int hidden_size = 0;
  int intermediate_size = 0;         // of the dense layers' SwiGLU
  int moe_intermediate_size = 0;     // of one expert's SwiGLU
  int num_hidden_layers = 0;         // main layers; the MTP module is layer num_hidden_layers
  int first_k_dense_replace = 0;     // main layers [0, this) are dense, the others MoE
  int num_nextn_predict_layers = 0;  // 0 or 1
  int num_attention_heads = 0;
  int q_lora_rank = 0;
  int kv_lora_rank = 0;  // multiple of 128
  int qk_nope_head_dim = 0;
  int qk_rope_head_dim = 0;
  int v_head_dim = 0;
  int n_routed_experts = 0;
  int n_shared_experts = 0;
  int num_experts_per_tok = 0;
  int n_group = 0;
  int topk_group = 0;
  bool norm_topk_prob = true;
  float routed_scaling_factor = 1;
  float rms_norm_eps = 1e-6f;
  float indexer_norm_eps = 1e-6f;  // not in the file
  RopeConfig rope;
  int max_position_embeddings = 0;
  int bos_token_id = 0;
  std::vector<int> eos_token_ids;

  // DeepSeek-V3 has no indexer and attends to every key; then these three are 0.
  bool has_indexer = false;
  int index_n_heads = 0;
  int index_head_dim = 0;
  int index_topk = 0;

  bool fp8_experts = false;  // routed experts are stored in fp8: the file has quantization_config

  int qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  int shared_intermediate_size() const { return n_shared_experts * moe_intermediate_size; }
  bool has_mtp() const { return num_nextn_predict_layers > 0; }
  // Whether layer `i` has routed experts; the MTP module (num_hidden_layers) has.
  bool is_moe(int layer) const { return layer >= first_k_dense_replace; }
};

// Reads `directory`/config.json. NotFound when it is missing; InvalidArgument names file and field.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& directory);

// The same from the file's text; `file` is used in messages.
absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view text, absl::string_view file);

}  // namespace baleen::model
