#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/checkpoint/tensor_source.h"
#include "model/checkpoint/weight_table.h"
#include "model/config.h"
#include "model/shard.h"

namespace baleen::model {

// A made-up checkpoint of any config: every tensor that a shard needs, with the dtypes of the
// published one (fp8 matrices with scales, bf16 embedding, head and router, f32 vectors). For
// measuring at real size without the real files, through the same loader.
//
// Values are normal: matrices with a deviation of about 0.02 (the config's initializer_range), so
// that activations stay near 1 and routing is nearly uniform; norms around 1, biases around 0; fp8
// scales are powers of two. A tensor is a piece of one block a kind of tensor, at an offset that
// follows from seed and name: the whole costs as much memory as the largest tensors, and a tensor
// is the same in every shard.
class RandomTensors final : public TensorSource {
 public:
  RandomTensors(const ModelConfig& config, const Shard& shard, uint64_t seed);

  absl::StatusOr<TensorView> Find(absl::string_view name) override;

  // In alphabetical order.
  std::vector<std::string> names() const;

 private:
  enum class Kind : uint8_t { kNorm, kBias, kScale, kPlain, kQuantized };
  static constexpr int kKinds = 5;
  struct Tensor {
    Kind kind;
    TensorEntry entry;  // bytes [0, end)
  };

  void Add(const WeightSpec& spec);
  void AddTensor(const std::string& name, Kind kind, std::vector<int64_t> shape);
  static FileDType DTypeOf(Kind kind);
  static float ValueOf(Kind kind, float normal);
  static std::vector<std::byte> MakeBlock(Kind kind, uint64_t bytes, uint64_t seed);

  const std::string file_ = "random tensors";  // for messages
  const uint64_t seed_;
  std::map<std::string, Tensor, std::less<>> tensors_;
  std::vector<std::byte> blocks_[kKinds];
};

}  // namespace baleen::model
