#include "model/checkpoint/weight_table.h"

#include "absl/strings/str_cat.h"

namespace baleen::model {
namespace {

using kernels::Weight;

// Adds specs under one name prefix.
class Table {
 public:
  Table(const ModelConfig& config, std::vector<WeightSpec>& specs) : c_(config), specs_(specs) {}

  void Globals(const Shard& shard, ModelWeights& w) {
    if (shard.first() || shard.mtp) {
      Plain("model.embed_tokens.weight", c_.vocab_size, c_.hidden_size, w.embedding);
    }
    if (!shard.last()) return;
    Vector("model.norm.weight", c_.hidden_size, w.norm);
    Plain("lm_head.weight", c_.vocab_size, c_.hidden_size, w.head);
  }

  void Layer(int index, const Shard& shard, LayerWeights& w) {
    prefix_ = absl::StrCat("model.layers.", index, ".");
    Vector("input_layernorm.weight", c_.hidden_size, w.input_norm);
    Attention(w.attention);
    if (c_.has_indexer) Indexer(w.indexer);
    Vector("post_attention_layernorm.weight", c_.hidden_size, w.post_attention_norm);
    w.is_moe = c_.is_moe(index);
    if (w.is_moe) {
      Moe(shard, w.moe);
    } else {
      GateUp("mlp.", c_.intermediate_size, w.mlp.gate_up);
      Down("mlp.", c_.intermediate_size, w.mlp.down);
    }
  }

  void Mtp(const Shard& shard, MtpWeights& w) {
    Layer(c_.num_hidden_layers, shard, w.layer);  // also sets the prefix of the next four
    Vector("enorm.weight", c_.hidden_size, w.embedding_norm);
    Vector("hnorm.weight", c_.hidden_size, w.hidden_norm);
    Plain("eh_proj.weight", c_.hidden_size, 2 * c_.hidden_size, w.eh_proj);
    Vector("shared_head.norm.weight", c_.hidden_size, w.norm);
  }

 private:
  void Attention(AttentionWeights& w) {
    const int heads = c_.num_attention_heads;
    Quantizable("self_attn.q_a_proj.weight", c_.q_lora_rank, c_.hidden_size, w.q_a);
    Vector("self_attn.q_a_layernorm.weight", c_.q_lora_rank, w.q_a_norm);
    Quantizable("self_attn.q_b_proj.weight", heads * c_.qk_head_dim(), c_.q_lora_rank, w.q_b);
    Quantizable("self_attn.kv_a_proj_with_mqa.weight", c_.kv_lora_rank + c_.qk_rope_head_dim,
                c_.hidden_size, w.kv_a);
    Vector("self_attn.kv_a_layernorm.weight", c_.kv_lora_rank, w.kv_a_norm);
    WeightSpec& kv_b = Add("self_attn.kv_b_proj.weight", WeightForm::kQuantizable,
                           {heads * (c_.qk_nope_head_dim + c_.v_head_dim), c_.kv_lora_rank});
    kv_b.absorbed = &w;
    Quantizable("self_attn.o_proj.weight", c_.hidden_size, heads * c_.v_head_dim, w.o);
  }

  void Indexer(IndexerWeights& w) {
    Quantizable("self_attn.indexer.wq_b.weight", c_.index_n_heads * c_.index_head_dim,
                c_.q_lora_rank, w.wq_b);
    Quantizable("self_attn.indexer.wk.weight", c_.index_head_dim, c_.hidden_size, w.wk);
    Vector("self_attn.indexer.k_norm.weight", c_.index_head_dim, w.k_norm_weight);
    Vector("self_attn.indexer.k_norm.bias", c_.index_head_dim, w.k_norm_bias);
    Plain("self_attn.indexer.weights_proj.weight", c_.index_n_heads, c_.hidden_size,
          w.weights_proj);
  }

  void Moe(const Shard& shard, MoeWeights& w) {
    Plain("mlp.gate.weight", c_.n_routed_experts, c_.hidden_size, w.gate);
    Vector("mlp.gate.e_score_correction_bias", c_.n_routed_experts, w.bias);
    GateUp("mlp.shared_experts.", c_.shared_intermediate_size(), w.shared.gate_up);
    Down("mlp.shared_experts.", c_.shared_intermediate_size(), w.shared.down);
    w.gate_up.resize(shard.end_expert - shard.first_expert);
    w.down.resize(w.gate_up.size());
    for (size_t e = 0; e < w.gate_up.size(); ++e) {
      const std::string expert = absl::StrCat("mlp.experts.", shard.first_expert + e, ".");
      GateUp(expert, c_.moe_intermediate_size, w.gate_up[e]);
      Down(expert, c_.moe_intermediate_size, w.down[e]);
    }
  }

  void GateUp(absl::string_view where, int width, Weight& gate_up) {
    for (const bool up : {false, true}) {
      WeightSpec& spec = Add(absl::StrCat(where, up ? "up_proj.weight" : "gate_proj.weight"),
                             WeightForm::kQuantizable, {width, c_.hidden_size});
      spec.matrix = &gate_up;
      spec.first_row = up ? width : 0;
      spec.total_rows = 2 * width;
    }
  }

  void Down(absl::string_view where, int width, Weight& down) {
    Quantizable(absl::StrCat(where, "down_proj.weight"), c_.hidden_size, width, down);
  }

  void Vector(absl::string_view name, int dim, const float*& target) {
    Add(name, WeightForm::kVector, {dim}).vector = &target;
  }

  void Plain(absl::string_view name, int out, int in, Weight& target) {
    WholeMatrix(Add(name, WeightForm::kPlain, {out, in}), target);
  }

  void Quantizable(absl::string_view name, int out, int in, Weight& target) {
    WholeMatrix(Add(name, WeightForm::kQuantizable, {out, in}), target);
  }

  static void WholeMatrix(WeightSpec& spec, Weight& target) {
    spec.matrix = &target;
    spec.total_rows = static_cast<int>(spec.shape[0]);
  }

  WeightSpec& Add(absl::string_view name, WeightForm form, std::vector<int64_t> shape) {
    specs_.push_back(
        {.name = absl::StrCat(prefix_, name), .shape = std::move(shape), .form = form});
    return specs_.back();
  }

  const ModelConfig& c_;
  std::vector<WeightSpec>& specs_;
  std::string prefix_;
};

}  // namespace

std::vector<WeightSpec> WeightTable(const ModelConfig& config, const Shard& shard,
                                    ModelWeights& weights) {
  std::vector<WeightSpec> specs;
  Table(config, specs).Globals(shard, weights);
  weights.layers.resize(shard.end_layer - shard.first_layer);
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    Table(config, specs).Layer(shard.first_layer + static_cast<int>(i), shard, weights.layers[i]);
  }
  if (shard.mtp) Table(config, specs).Mtp(shard, weights.mtp);
  return specs;
}

}  // namespace baleen::model
