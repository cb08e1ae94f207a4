#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "kernels/backend.h"

namespace baleen::model {

// One block of a backend's memory, given back at the end. Any thread that may call the backend.
class DeviceBlock {
 public:
  DeviceBlock() = default;
  // Null data() when the backend has not got `bytes` left.
  DeviceBlock(kernels::Backend& backend, size_t bytes)
      : backend_(&backend), data_(bytes > 0 ? backend.Allocate(bytes) : nullptr), bytes_(bytes) {}
  DeviceBlock(DeviceBlock&& other) noexcept { *this = std::move(other); }
  DeviceBlock& operator=(DeviceBlock&& other) noexcept {
    std::swap(backend_, other.backend_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceBlock() {
    if (data_ != nullptr) backend_->Free(data_);
  }

  std::byte* data() const { return static_cast<std::byte*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  kernels::Backend* backend_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Per-head matrices [heads, out, in], dense, for Backend::HeadLinear.
struct HeadWeight {
  const void* data = nullptr;
  DType dtype = DType::kF32;
};

struct AttentionWeights {
  kernels::Weight q_a;               // [q_lora, hidden]
  const float* q_a_norm = nullptr;   // [q_lora]
  kernels::Weight q_b;               // [heads * (nope + rope), q_lora]
  kernels::Weight kv_a;              // [kv_lora + rope, hidden]
  const float* kv_a_norm = nullptr;  // [kv_lora]
  HeadWeight w_uk;                   // [heads, kv_lora, nope]: the k half of kv_b, transposed
  HeadWeight w_uv;                   // [heads, v, kv_lora]: the v half of kv_b
  kernels::Weight o;                 // [hidden, heads * v]
};

struct IndexerWeights {
  kernels::Weight wq_b;                  // [index_heads * index_dim, q_lora]
  kernels::Weight wk;                    // [index_dim, hidden]
  const float* k_norm_weight = nullptr;  // [index_dim]
  const float* k_norm_bias = nullptr;    // [index_dim]
  kernels::Weight weights_proj;          // [index_heads, hidden]
};

struct MlpWeights {
  kernels::Weight gate_up;  // [2 * width, hidden]: gate above up
  kernels::Weight down;     // [hidden, width]
};

struct MoeWeights {
  kernels::Weight gate;         // [experts, hidden]
  const float* bias = nullptr;  // [experts], e_score_correction_bias
  MlpWeights shared;
  std::vector<kernels::Weight> gate_up;  // of this shard's experts
  std::vector<kernels::Weight> down;
};

struct LayerWeights {
  const float* input_norm = nullptr;  // [hidden]
  AttentionWeights attention;
  IndexerWeights indexer;                      // unset without an indexer
  const float* post_attention_norm = nullptr;  // [hidden]
  bool is_moe = false;
  MlpWeights mlp;  // when !is_moe
  MoeWeights moe;  // when is_moe
};

struct MtpWeights {
  const float* embedding_norm = nullptr;  // [hidden], "enorm"
  const float* hidden_norm = nullptr;     // [hidden], "hnorm"
  kernels::Weight eh_proj;                // [hidden, 2 * hidden]
  LayerWeights layer;
  const float* norm = nullptr;  // [hidden], "shared_head.norm"
};

// The weights of one shard, in a backend's memory. What the shard does not hold is unset.
// docs/shapes.md lists the checkpoint's names. Immutable after loading.
struct ModelWeights {
  kernels::Weight embedding;         // [vocab, hidden]; first() or mtp
  std::vector<LayerWeights> layers;  // main layers first_layer .. end_layer - 1
  const float* norm = nullptr;       // [hidden]; last()
  kernels::Weight head;              // [vocab, hidden]; last()
  MtpWeights mtp;                    // mtp

  DeviceBlock memory;  // everything above points into it
};

}  // namespace baleen::model
