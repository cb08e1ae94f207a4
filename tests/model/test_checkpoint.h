#pragma once

#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "common/check.h"
#include "kernels/float_formats.h"
#include "model/checkpoint/convert.h"
#include "model/checkpoint/weight_table.h"
#include "nlohmann/json.hpp"

namespace baleen::testing {

// A folder that goes away with the object.
class TempFolder {
 public:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "baleen_XXXXXX").string();
    BALEEN_CHECK(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

struct TestTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};
using TestTensors = std::map<std::string, TestTensor>;

// The bytes of a safetensors file: `header` first, then `data`.
inline std::string SafetensorsBytes(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + header + data;
}

inline std::string SafetensorsBytes(const TestTensors& tensors) {
  nlohmann::ordered_json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const auto& [name, t] : tensors) {
    header[name] = {{"dtype", t.dtype},
                    {"shape", t.shape},
                    {"data_offsets", {data.size(), data.size() + t.bytes.size()}}};
    data += t.bytes;
  }
  return SafetensorsBytes(header.dump() + "   ", data);
}

inline void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// A small model's sizes with what the real ones lack: partial scale blocks everywhere.
inline model::ModelConfig PartialBlockConfig() {
  model::ModelConfig c;
  c.vocab_size = 10;
  c.hidden_size = 160;
  c.intermediate_size = 200;
  c.moe_intermediate_size = 96;
  c.num_hidden_layers = 2;
  c.first_k_dense_replace = 1;
  c.num_nextn_predict_layers = 1;
  c.num_attention_heads = 2;
  c.q_lora_rank = 72;
  c.kv_lora_rank = 128;
  c.qk_nope_head_dim = 48;
  c.qk_rope_head_dim = 16;
  c.v_head_dim = 40;
  c.n_routed_experts = 4;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 2;
  c.n_group = 2;
  c.topk_group = 2;
  c.has_indexer = true;
  c.index_n_heads = 2;
  c.index_head_dim = 64;
  c.index_topk = 8;
  c.fp8_experts = true;
  return c;
}

// Larger: the embedding, kv_b's halves and others need several parts of an upload each. Every array
// is a multiple of 256 bytes, so loaded memory has no gaps and can be compared as a whole.
inline model::ModelConfig GaplessConfig() {
  model::ModelConfig c = PartialBlockConfig();
  c.vocab_size = 10240;
  c.hidden_size = 1024;
  c.moe_intermediate_size = 1024;
  c.num_hidden_layers = 1;
  c.first_k_dense_replace = 0;
  c.num_nextn_predict_layers = 0;
  c.num_attention_heads = 80;
  c.q_lora_rank = 1024;
  c.kv_lora_rank = 960;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.v_head_dim = 128;
  c.n_routed_experts = 64;
  c.index_n_heads = 8;
  c.index_head_dim = 1024;
  return c;
}

inline int64_t ElementCount(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t n : shape) count *= n;
  return count;
}

inline TestTensor RandomF32(std::vector<int64_t> shape, std::mt19937& rng) {
  std::uniform_real_distribution<float> uniform(0.5f, 2.0f);
  std::vector<float> values(ElementCount(shape));
  for (float& v : values) v = uniform(rng);
  return {"F32", std::move(shape),
          std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4)};
}

// Every tensor of a whole model with random contents: fp8 matrices with scales, BF16 where the
// table says so, F32 vectors.
inline TestTensors RandomCheckpoint(const model::ModelConfig& config, uint32_t seed = 7) {
  model::ModelWeights unused;
  std::mt19937 rng(seed);
  TestTensors tensors;
  const auto specs = model::WeightTable(config, model::WholeModel(config, true), unused);
  for (const model::WeightSpec& spec : specs) {
    const size_t count = ElementCount(spec.shape);
    if (spec.form == model::WeightForm::kVector) {
      tensors[spec.name] = RandomF32(spec.shape, rng);
    } else if (spec.form == model::WeightForm::kPlain) {
      std::string bytes(count * 2, '\0');
      for (size_t i = 0; i < count; ++i) {
        const uint16_t v = kernels::F32ToBf16(float(int(rng() % 2001) - 1000) / 1000);
        std::memcpy(&bytes[i * 2], &v, 2);
      }
      tensors[spec.name] = {"BF16", spec.shape, std::move(bytes)};
    } else {
      std::string bytes(count, '\0');
      for (char& b : bytes) b = static_cast<char>(rng() % 0x7F);  // 0x7F is NaN
      tensors[spec.name] = {"F8_E4M3", spec.shape, std::move(bytes)};
      tensors[spec.name + "_scale_inv"] =
          RandomF32({model::ScaleBlocks(spec.shape[0]), model::ScaleBlocks(spec.shape[1])}, rng);
    }
  }
  return tensors;
}

// Writes the tensors as model-00001-of-00002 and -00002-of-00002 with an index, dealt in turn, so
// that a weight and its scales are in different files.
inline void WriteCheckpoint(const TempFolder& folder, const TestTensors& tensors) {
  const std::string names[] = {"model-00001-of-00002.safetensors",
                               "model-00002-of-00002.safetensors"};
  TestTensors parts[2];
  nlohmann::json map;
  for (const auto& [name, tensor] : tensors) {
    const int file = static_cast<int>((parts[0].size() + parts[1].size()) % 2);
    parts[file].emplace(name, tensor);
    map[name] = names[file];
  }
  for (int i = 0; i < 2; ++i) WriteFile(folder / names[i], SafetensorsBytes(parts[i]));
  WriteFile(folder / "model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
}

}  // namespace baleen::testing
