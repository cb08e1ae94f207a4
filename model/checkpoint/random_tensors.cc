#include "model/checkpoint/random_tensors.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/float_formats.h"
#include "model/checkpoint/convert.h"
#include "xxhash.h"

namespace baleen::model {
namespace {

constexpr uint64_t kOffsets = 1 << 20;     // tensors begin at one of so many elements of a block
constexpr size_t kTableValues = 1u << 16;  // a block's elements are drawn from so many values

void Encode(FileDType dtype, float value, std::byte* at) {
  const uint16_t bf16 = kernels::F32ToBf16(value);
  const uint8_t fp8 = kernels::F32ToE4m3(value);
  if (dtype == FileDType::kF32) std::memcpy(at, &value, sizeof(value));
  if (dtype == FileDType::kBf16) std::memcpy(at, &bf16, sizeof(bf16));
  if (dtype == FileDType::kF8E4M3) std::memcpy(at, &fp8, sizeof(fp8));
}

// Fills `block` with elements of kBytes bytes, drawn from `table`.
template <size_t kBytes>
void Draw(const std::vector<std::byte>& table, std::mt19937_64& rng,
          std::vector<std::byte>& block) {
  uint64_t bits = 0;
  for (size_t i = 0; i < block.size() / kBytes; ++i) {
    bits = i % 4 == 0 ? rng() : bits >> 16;
    std::memcpy(&block[i * kBytes], &table[(bits % kTableValues) * kBytes], kBytes);
  }
}

}  // namespace

RandomTensors::RandomTensors(const ModelConfig& config, const Shard& shard, uint64_t seed)
    : seed_(seed) {
  ModelWeights unused;
  for (const WeightSpec& spec : WeightTable(config, shard, unused)) Add(spec);
  uint64_t bytes[kKinds] = {};
  for (const auto& [name, t] : tensors_) {
    uint64_t& largest = bytes[static_cast<int>(t.kind)];
    largest = std::max(largest, t.entry.end);
  }
  for (int k = 0; k < kKinds; ++k) {
    const uint64_t slack = kOffsets * FileDTypeBytes(DTypeOf(Kind(k)));
    if (bytes[k] > 0) blocks_[k] = MakeBlock(Kind(k), bytes[k] + slack, seed);
  }
}

void RandomTensors::Add(const WeightSpec& spec) {
  switch (spec.form) {
    case WeightForm::kVector:
      return AddTensor(spec.name, absl::EndsWith(spec.name, "bias") ? Kind::kBias : Kind::kNorm,
                       spec.shape);
    case WeightForm::kPlain:
      return AddTensor(spec.name, Kind::kPlain, spec.shape);
    case WeightForm::kQuantizable:
      AddTensor(spec.name, Kind::kQuantized, spec.shape);
      return AddTensor(spec.name + "_scale_inv", Kind::kScale,
                       {ScaleBlocks(spec.shape[0]), ScaleBlocks(spec.shape[1])});
  }
}

void RandomTensors::AddTensor(const std::string& name, Kind kind, std::vector<int64_t> shape) {
  const FileDType dtype = DTypeOf(kind);
  uint64_t bytes = FileDTypeBytes(dtype);
  for (const int64_t n : shape) bytes *= n;
  TensorEntry entry = {.name = name, .dtype = dtype, .shape = std::move(shape), .end = bytes};
  tensors_.emplace(name, Tensor{kind, std::move(entry)});
}

FileDType RandomTensors::DTypeOf(Kind kind) {
  if (kind == Kind::kQuantized) return FileDType::kF8E4M3;
  return kind == Kind::kPlain ? FileDType::kBf16 : FileDType::kF32;
}

float RandomTensors::ValueOf(Kind kind, float normal) {
  switch (kind) {
    case Kind::kNorm:
      return 1 + 0.1f * normal;
    case Kind::kBias:
      return 0.001f * normal;
    case Kind::kScale:  // of kQuantized: 0.016 or 0.031 together
      return normal < 0 ? 0x1p-11f : 0x1p-10f;
    case Kind::kPlain:
      return 0.02f * normal;
    case Kind::kQuantized:
      return 32 * normal;
  }
  return 0;
}

// Element i depends on kind, seed and i only, so that a longer block begins like a shorter one.
std::vector<std::byte> RandomTensors::MakeBlock(Kind kind, uint64_t bytes, uint64_t seed) {
  const FileDType dtype = DTypeOf(kind);
  const size_t element = FileDTypeBytes(dtype);
  std::mt19937_64 rng(seed * kKinds + static_cast<int>(kind));
  std::normal_distribution<float> normal;
  std::vector<std::byte> table(kTableValues * element);
  for (size_t i = 0; i < kTableValues; ++i) {
    Encode(dtype, ValueOf(kind, normal(rng)), &table[i * element]);
  }
  std::vector<std::byte> block(bytes);
  if (element == 1) Draw<1>(table, rng, block);
  if (element == 2) Draw<2>(table, rng, block);
  if (element == 4) Draw<4>(table, rng, block);
  return block;
}

absl::StatusOr<TensorView> RandomTensors::Find(absl::string_view name) {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) return absl::NotFoundError(absl::StrCat("no random tensor ", name));
  const Tensor& t = it->second;
  const uint64_t offset = XXH64(name.data(), name.size(), seed_) % kOffsets;
  const std::byte* block = blocks_[static_cast<int>(t.kind)].data();
  return TensorView{&t.entry, block + offset * FileDTypeBytes(t.entry.dtype), &file_};
}

std::vector<std::string> RandomTensors::names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  return names;
}

}  // namespace baleen::model
