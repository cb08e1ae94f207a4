#include "model/config.h"

#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace baleen::model {
namespace {

using Json = nlohmann::json;

constexpr int kMaxSize = 1 << 24;  // no size of any such model comes near; products fit in 64 bits

// Reads fields of one JSON object and keeps the first error, so that a list of fields reads as a
// list. `prefix` is what stands before a field's name in messages.
class Fields {
 public:
  Fields(const Json& object, absl::string_view file, absl::string_view prefix)
      : object_(object), file_(file), prefix_(prefix) {}

  const absl::Status& status() const { return status_; }

  void Fail(absl::string_view field, absl::string_view what) {
    if (status_.ok()) {
      status_ = absl::InvalidArgumentError(absl::StrCat(file_, ": ", prefix_, field, " ", what));
    }
  }

  const Json* Find(const char* field) const {
    const auto it = object_.find(field);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  // A required whole number in [low, high].
  int Int(const char* field, int low, int high = kMaxSize) {
    const Json* v = Find(field);
    if (v == nullptr) return Fail(field, "is missing"), low;
    return CheckInt(*v, field, low, high);
  }

  int Int(const char* field, int low, int high, int when_absent) {
    const Json* v = Find(field);
    return v == nullptr ? when_absent : CheckInt(*v, field, low, high);
  }

  // A required number > 0.
  double Positive(const char* field) {
    const Json* v = Find(field);
    if (v == nullptr) return Fail(field, "is missing"), 1;
    return CheckPositive(*v, field);
  }

  double Positive(const char* field, double when_absent) {
    const Json* v = Find(field);
    return v == nullptr ? when_absent : CheckPositive(*v, field);
  }

  bool Bool(const char* field, bool when_absent) {
    const Json* v = Find(field);
    if (v == nullptr) return when_absent;
    if (!v->is_boolean()) return Fail(field, "must be true or false"), when_absent;
    return v->get<bool>();
  }

  // The field, if present, must be this string.
  void Only(const char* field, absl::string_view wanted) {
    const Json* v = Find(field);
    if (v == nullptr) return;
    if (!v->is_string()) return Fail(field, "must be a string");
    if (v->get_ref<const std::string&>() != wanted) {
      Fail(field, absl::StrCat("is ", v->dump(), "; only \"", wanted, "\" is supported"));
    }
  }

  void Must(bool condition, absl::string_view field, absl::string_view what) {
    if (!condition) Fail(field, what);
  }

  int CheckInt(const Json& v, const char* field, int low, int high) {
    if (!v.is_number_integer()) return Fail(field, "must be a whole number"), low;
    const bool too_large = v.is_number_unsigned() && v.get<uint64_t>() > uint64_t(kMaxSize);
    const int64_t n = too_large ? std::numeric_limits<int64_t>::max() : v.get<int64_t>();
    if (n < low || n > high) {
      Fail(field, absl::StrCat("is ", v.dump(), "; it must be in [", low, ", ", high, "]"));
      return low;
    }
    return static_cast<int>(n);
  }

 private:
  double CheckPositive(const Json& v, const char* field) {
    if (!v.is_number()) return Fail(field, "must be a number"), 1;
    const double d = v.get<double>();
    if (!std::isfinite(d) || d <= 0) return Fail(field, "must be positive and finite"), 1;
    return d;
  }

  const Json& object_;
  absl::string_view file_;
  absl::string_view prefix_;
  absl::Status status_;
};

void ReadArchitecture(Fields& f, ModelConfig& c) {
  const Json* v = f.Find("architectures");
  if (v == nullptr) return f.Fail("architectures", "is missing");
  if (!v->is_array() || v->size() != 1 || !(*v)[0].is_string()) {
    return f.Fail("architectures", "must be a list of one name");
  }
  c.architecture = (*v)[0].get<std::string>();
  c.has_indexer = c.architecture == "DeepseekV32ForCausalLM";
  f.Must(c.has_indexer || c.architecture == "DeepseekV3ForCausalLM", "architectures",
         absl::StrCat("is [\"", c.architecture,
                      "\"]; supported are DeepseekV32ForCausalLM and DeepseekV3ForCausalLM"));
}

void ReadSizes(Fields& f, ModelConfig& c) {
  c.vocab_size = f.Int("vocab_size", 1);
  c.hidden_size = f.Int("hidden_size", 1);
  c.intermediate_size = f.Int("intermediate_size", 1);
  c.num_hidden_layers = f.Int("num_hidden_layers", 1, 4096);
  c.first_k_dense_replace = f.Int("first_k_dense_replace", 0, 4096);
  c.num_nextn_predict_layers = f.Int("num_nextn_predict_layers", 0, 1, /*when_absent=*/0);
  c.max_position_embeddings = f.Int("max_position_embeddings", 1);
  c.rms_norm_eps = static_cast<float>(f.Positive("rms_norm_eps"));
  f.Must(c.first_k_dense_replace <= c.num_hidden_layers, "first_k_dense_replace",
         "must not exceed num_hidden_layers");
  f.Int("moe_layer_freq", 1, 1, 1);
}

void ReadAttention(Fields& f, ModelConfig& c) {
  c.num_attention_heads = f.Int("num_attention_heads", 1, 65536);
  c.q_lora_rank = f.Int("q_lora_rank", 1);
  c.kv_lora_rank = f.Int("kv_lora_rank", 1);
  c.qk_nope_head_dim = f.Int("qk_nope_head_dim", 1, 65536);
  c.qk_rope_head_dim = f.Int("qk_rope_head_dim", 2, 65536);
  c.v_head_dim = f.Int("v_head_dim", 1, 65536);
  f.Must(c.kv_lora_rank % 128 == 0, "kv_lora_rank", "must be a multiple of 128");
  f.Must(c.qk_rope_head_dim % 2 == 0, "qk_rope_head_dim", "must be even");
  f.Must(!f.Bool("attention_bias", false), "attention_bias", "must be false");
  if (!c.has_indexer) return;
  c.index_n_heads = f.Int("index_n_heads", 1, 65536);
  c.index_head_dim = f.Int("index_head_dim", 1, 65536);
  c.index_topk = f.Int("index_topk", 1);
  f.Must(c.index_head_dim >= c.qk_rope_head_dim, "index_head_dim",
         "must not be smaller than qk_rope_head_dim");
}

void ReadExperts(Fields& f, ModelConfig& c) {
  c.moe_intermediate_size = f.Int("moe_intermediate_size", 1);
  c.n_routed_experts = f.Int("n_routed_experts", 1, 65536);
  c.n_shared_experts = f.Int("n_shared_experts", 1, 1024);
  c.num_experts_per_tok = f.Int("num_experts_per_tok", 1, 1024);
  c.n_group = f.Int("n_group", 1, 65536);
  c.topk_group = f.Int("topk_group", 1, 65536);
  c.norm_topk_prob = f.Bool("norm_topk_prob", true);
  c.routed_scaling_factor = static_cast<float>(f.Positive("routed_scaling_factor"));
  f.Only("scoring_func", "sigmoid");
  f.Only("topk_method", "noaux_tc");
  f.Only("hidden_act", "silu");
  if (!f.status().ok()) return;
  f.Must(c.n_routed_experts % c.n_group == 0, "n_group", "must divide n_routed_experts");
  f.Must(c.n_routed_experts / c.n_group >= 2, "n_group",
         "leaves fewer than two experts in a group");
  f.Must(c.topk_group <= c.n_group, "topk_group", "must not exceed n_group");
  f.Must(c.num_experts_per_tok <= c.topk_group * (c.n_routed_experts / c.n_group),
         "num_experts_per_tok", "exceeds the experts in topk_group groups");
}

void ReadTokens(Fields& f, ModelConfig& c) {
  c.bos_token_id = f.Int("bos_token_id", 0, c.vocab_size - 1, 0);
  f.Must(!f.Bool("tie_word_embeddings", false), "tie_word_embeddings", "must be false");
  const Json* eos = f.Find("eos_token_id");
  if (eos == nullptr) return;
  if (!eos->is_array()) {
    c.eos_token_ids = {f.CheckInt(*eos, "eos_token_id", 0, c.vocab_size - 1)};
    return;
  }
  for (const Json& id : *eos) {
    c.eos_token_ids.push_back(f.CheckInt(id, "eos_token_id", 0, c.vocab_size - 1));
  }
}

absl::Status ReadRope(Fields& f, absl::string_view file, RopeConfig& rope) {
  rope.theta = f.Positive("rope_theta", 10000);
  const Json* scaling = f.Find("rope_scaling");
  if (scaling == nullptr) return f.status();
  if (!scaling->is_object()) f.Fail("rope_scaling", "must be an object");
  BALEEN_RETURN_IF_ERROR(f.status());
  Fields s(*scaling, file, "rope_scaling.");
  s.Must(s.Find("type") != nullptr || s.Find("rope_type") != nullptr, "type", "is missing");
  s.Only("type", "yarn");
  s.Only("rope_type", "yarn");
  rope.yarn = true;
  rope.factor = s.Positive("factor");
  rope.original_max_position = s.Int("original_max_position_embeddings", 1);
  rope.beta_fast = s.Positive("beta_fast", 32);
  rope.beta_slow = s.Positive("beta_slow", 1);
  rope.mscale = s.Positive("mscale", 1);
  rope.mscale_all_dim = s.Positive("mscale_all_dim", 1);
  s.Must(rope.factor >= 1, "factor", "must be at least 1");
  s.Must(rope.beta_fast >= rope.beta_slow, "beta_fast", "must not be smaller than beta_slow");
  return s.status();
}

absl::Status CheckQuantization(Fields& f, absl::string_view file) {
  const Json* quantization = f.Find("quantization_config");
  if (quantization == nullptr) return absl::OkStatus();  // stored in bf16
  if (!quantization->is_object()) {
    f.Fail("quantization_config", "must be an object");
    return f.status();
  }
  Fields q(*quantization, file, "quantization_config.");
  q.Only("quant_method", "fp8");
  q.Only("fmt", "e4m3");
  q.Only("activation_scheme", "dynamic");
  q.Only("scale_fmt", "ue8m0");
  const Json* block = q.Find("weight_block_size");
  q.Must(block != nullptr && *block == Json::array({128, 128}), "weight_block_size",
         "must be [128, 128]");
  return q.status();
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view text, absl::string_view file) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": not a JSON object"));
  }
  ModelConfig c;
  Fields f(json, file, "");
  ReadArchitecture(f, c);
  BALEEN_RETURN_IF_ERROR(f.status());
  ReadSizes(f, c);
  ReadAttention(f, c);
  ReadExperts(f, c);
  ReadTokens(f, c);
  BALEEN_RETURN_IF_ERROR(f.status());
  BALEEN_RETURN_IF_ERROR(ReadRope(f, file, c.rope));
  BALEEN_RETURN_IF_ERROR(CheckQuantization(f, file));
  c.fp8_experts = f.Find("quantization_config") != nullptr;
  return c;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& directory) {
  const std::string path = directory + "/config.json";
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat(path, ": cannot be opened"));
  std::stringstream text;
  text << in.rdbuf();
  return ParseModelConfig(text.str(), path);
}

}  // namespace baleen::model
