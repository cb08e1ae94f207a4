#include "model/checkpoint/loader.h"

#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "kernels/float_formats.h"
#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/convert.h"
#include "model/checkpoint/progress.h"
#include "model/checkpoint/weight_table.h"

namespace baleen::model {
namespace {

using kernels::Weight;
using kernels::WeightStorage;

constexpr size_t kAlignment = 256;          // of every array in the block
constexpr size_t kStagingBytes = 4u << 20;  // of converted rows on their way to the backend

absl::Status Error(const TensorView& t, absl::string_view field, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(*t.file, ": tensor ", t.entry->name, ": ", field, " ", what));
}

absl::Status CheckShape(const TensorView& t, const std::vector<int64_t>& wanted) {
  if (t.entry->shape == wanted) return absl::OkStatus();
  return Error(t, "shape",
               absl::StrCat("is [", absl::StrJoin(t.entry->shape, ", "), "], the config asks for [",
                            absl::StrJoin(wanted, ", "), "]"));
}

// A scale multiplies 128 x 128 weights: one that is not a positive number poisons every output.
absl::Status CheckScales(const TensorView& t) {
  const size_t count = t.bytes() / sizeof(float);
  for (size_t i = 0; i < count; ++i) {
    float scale;
    std::memcpy(&scale, t.data + i * sizeof(scale), sizeof(scale));
    if (!std::isfinite(scale) || scale <= 0) {
      return Error(t, absl::StrCat("element ", i),
                   absl::StrCat("is ", scale, ", no positive finite scale"));
    }
  }
  return absl::OkStatus();
}

DType MemoryDType(FileDType dtype, WeightStorage storage) {
  if (storage == WeightStorage::kDequantized) return DType::kF32;
  if (dtype == FileDType::kF8E4M3) return DType::kF8E4M3;
  return dtype == FileDType::kBf16 ? DType::kBf16 : DType::kF32;
}

// A spec with its tensors found and its places in the block.
struct Placement {
  const WeightSpec* spec = nullptr;
  TensorView tensor;
  TensorView scales;          // entry == nullptr: none
  DType dtype = DType::kF32;  // in memory
  size_t offset = 0;          // of the vector, the (whole) matrix, or w_uk
  size_t scale_offset = 0;    // of the (whole) matrix's scales, or w_uv

  bool fp8() const { return scales.entry != nullptr; }
};

class Loader {
 public:
  Loader(kernels::Backend& backend, TensorSource& source, const ModelConfig& config,
         ModelWeights& weights)
      : backend_(backend), source_(source), config_(config), weights_(weights) {}

  absl::Status Plan(const std::vector<WeightSpec>& specs) {
    for (const WeightSpec& spec : specs) {
      Placement p{.spec = &spec};
      BALEEN_RETURN_IF_ERROR(FindTensors(p));
      BALEEN_RETURN_IF_ERROR(Place(p));
      report_.tensors += p.fp8() ? 2 : 1;
      report_.bytes_read += p.tensor.bytes() + (p.fp8() ? p.scales.bytes() : 0);
      placements_.push_back(p);
    }
    report_.bytes_stored = block_bytes_;
    return absl::OkStatus();
  }

  absl::Status Load() {
    weights_.memory = DeviceBlock(backend_, block_bytes_);
    if (weights_.memory.data() == nullptr) {
      return absl::ResourceExhaustedError(absl::StrCat("the weights want ", block_bytes_,
                                                       " bytes of the ", backend_.name(),
                                                       " backend's memory"));
    }
    Progress progress("weights", report_.bytes_read, StderrIsTerminal(), SteadyClock(),
                      PrintProgress);
    for (const Placement& p : placements_) {
      Store(p);
      progress.Add(p.tensor.bytes() + (p.fp8() ? p.scales.bytes() : 0));
    }
    backend_.Synchronize();  // before the files are unmapped
    return absl::OkStatus();
  }

  const LoadReport& report() const { return report_; }

 private:
  absl::Status FindTensors(Placement& p) {
    const WeightSpec& spec = *p.spec;
    BALEEN_ASSIGN_OR_RETURN(p.tensor, source_.Find(spec.name));
    BALEEN_RETURN_IF_ERROR(CheckShape(p.tensor, spec.shape));
    switch (p.tensor.entry->dtype) {
      case FileDType::kF32:
      case FileDType::kBf16:
      case FileDType::kF16:
        return absl::OkStatus();
      case FileDType::kF8E4M3:
        if (spec.form == WeightForm::kQuantizable) return FindScales(p);
        break;
      default:
        break;
    }
    return Error(p.tensor, "dtype",
                 absl::StrCat(FileDTypeName(p.tensor.entry->dtype), " is not accepted here; ",
                              spec.form == WeightForm::kQuantizable ? "F8_E4M3, " : "",
                              "F32, BF16 and F16 are"));
  }

  absl::Status FindScales(Placement& p) {
    BALEEN_ASSIGN_OR_RETURN(p.scales, source_.Find(p.spec->name + "_scale_inv"));
    BALEEN_RETURN_IF_ERROR(
        CheckShape(p.scales, {ScaleBlocks(p.spec->shape[0]), ScaleBlocks(p.spec->shape[1])}));
    if (p.scales.entry->dtype != FileDType::kF32) {
      return Error(p.scales, "dtype",
                   absl::StrCat(FileDTypeName(p.scales.entry->dtype), " is not F32"));
    }
    return CheckScales(p.scales);
  }

  absl::Status Place(Placement& p) {
    const WeightSpec& spec = *p.spec;
    p.dtype = MemoryDType(p.tensor.entry->dtype, backend_.weight_storage());
    if (spec.vector != nullptr) {
      p.offset = Reserve(size_t(spec.shape[0]) * sizeof(float));
    } else if (spec.absorbed != nullptr) {
      if (p.dtype == DType::kF8E4M3) p.dtype = DType::kBf16;  // the absorbed halves are not fp8
      const size_t row_bytes =
          size_t(config_.num_attention_heads) * config_.kv_lora_rank * DTypeBytes(p.dtype);
      p.offset = Reserve(row_bytes * config_.qk_nope_head_dim);
      p.scale_offset = Reserve(row_bytes * config_.v_head_dim);
    } else if (spec.first_row == 0) {
      PlaceMatrix(p);
    } else {
      return PlaceSecondHalf(p);
    }
    return absl::OkStatus();
  }

  void PlaceMatrix(Placement& p) {
    const size_t rows = p.spec->total_rows;
    const size_t cols = p.spec->shape[1];
    p.offset = Reserve(rows * cols * DTypeBytes(p.dtype));
    if (p.dtype != DType::kF8E4M3) return;
    p.scale_offset = Reserve(ScaleBlocks(rows) * ScaleBlocks(cols) * sizeof(float));
  }

  // The lower part of a fused matrix; its upper part was placed just before.
  absl::Status PlaceSecondHalf(Placement& p) {
    const Placement& upper = placements_.back();
    BALEEN_CHECK(upper.spec->matrix == p.spec->matrix);
    if (upper.tensor.entry->dtype != p.tensor.entry->dtype) {
      return Error(p.tensor, "dtype", absl::StrCat("differs from ", upper.spec->name, "'s"));
    }
    if (p.dtype == DType::kF8E4M3 && p.spec->first_row % kScaleBlock != 0) {
      return Error(p.tensor, "shape", "must have a multiple of 128 rows to be fused in fp8");
    }
    p.offset = upper.offset;
    p.scale_offset = upper.scale_offset;
    return absl::OkStatus();
  }

  size_t Reserve(size_t bytes) {
    const size_t offset = block_bytes_;
    block_bytes_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return offset;
  }

  void Store(const Placement& p) {
    const WeightSpec& spec = *p.spec;
    std::byte* at = weights_.memory.data() + p.offset;
    if (spec.vector != nullptr) {
      *spec.vector = reinterpret_cast<const float*>(at);
      StoreConverted(p, /*cols=*/1, at);
    } else if (spec.absorbed != nullptr) {
      StoreAbsorbed(p);
    } else {
      StoreMatrix(p, at);
    }
  }

  void StoreMatrix(const Placement& p, std::byte* at) {
    const WeightSpec& spec = *p.spec;
    const int64_t cols = spec.shape[1];
    Weight& w = *spec.matrix;
    w = {.data = at,
         .dtype = p.dtype,
         .out = spec.total_rows,
         .in = static_cast<int>(cols),
         .fp8_input = p.fp8()};
    std::byte* scales = weights_.memory.data() + p.scale_offset;
    if (p.dtype == DType::kF8E4M3) w.scales = reinterpret_cast<const float*>(scales);
    at += size_t(spec.first_row) * cols * DTypeBytes(p.dtype);
    const bool as_in_file = p.dtype == DType::kF8E4M3 || p.dtype == DType::kBf16;
    if (!as_in_file) return StoreConverted(p, cols, at);
    backend_.CopyIn(at, p.tensor.data, p.tensor.bytes());
    if (p.dtype != DType::kF8E4M3) return;
    scales += size_t(spec.first_row / kScaleBlock) * ScaleBlocks(cols) * sizeof(float);
    backend_.CopyIn(scales, p.scales.data, p.scales.bytes());
  }

  // f32 copies of rows [first, first + rows) of the tensor, in `staging_`.
  void ConvertRows(const Placement& p, int64_t cols, int64_t first, int64_t rows) {
    staging_.resize(rows * cols);
    if (p.fp8()) {
      DequantizeF8(p.tensor.data, p.scales.data, first, rows, cols, staging_.data());
    } else {
      const FileDType dtype = p.tensor.entry->dtype;
      ConvertToF32(dtype, p.tensor.data + size_t(first) * cols * FileDTypeBytes(dtype), rows * cols,
                   staging_.data());
    }
  }

  void StoreConverted(const Placement& p, int64_t cols, std::byte* at) {
    const int64_t rows = p.spec->shape[0];
    const int64_t step = std::max<int64_t>(1, kStagingBytes / (cols * sizeof(float)));
    for (int64_t first = 0; first < rows; first += step) {
      const int64_t n = std::min(step, rows - first);
      ConvertRows(p, cols, first, n);
      backend_.CopyIn(at + first * cols * sizeof(float), staging_.data(),
                      staging_.size() * sizeof(float));
      backend_.Synchronize();  // the staging memory is used again
    }
  }

  // Splits kv_b, head by head, into w_uk [heads, kv_lora, nope] and w_uv [heads, v, kv_lora] (2.4).
  void StoreAbsorbed(const Placement& p) {
    const int64_t nope = config_.qk_nope_head_dim;
    const int64_t v = config_.v_head_dim;
    const int64_t lora = config_.kv_lora_rank;
    std::byte* uk = weights_.memory.data() + p.offset;
    std::byte* uv = weights_.memory.data() + p.scale_offset;
    p.spec->absorbed->w_uk = {uk, p.dtype};
    p.spec->absorbed->w_uv = {uv, p.dtype};
    std::vector<float> transposed(lora * nope);
    for (int64_t h = 0; h < config_.num_attention_heads; ++h) {
      ConvertRows(p, lora, h * (nope + v), nope + v);
      for (int64_t d = 0; d < nope; ++d) {
        for (int64_t c = 0; c < lora; ++c) transposed[c * nope + d] = staging_[d * lora + c];
      }
      uk = CopyHead(p.dtype, transposed.data(), lora * nope, uk);
      uv = CopyHead(p.dtype, staging_.data() + nope * lora, v * lora, uv);
    }
  }

  // Stores `count` values in `dtype` and returns the place behind them.
  std::byte* CopyHead(DType dtype, const float* values, int64_t count, std::byte* at) {
    std::vector<uint16_t> rounded;
    const void* from = values;
    if (dtype == DType::kBf16) {
      rounded.resize(count);
      for (int64_t i = 0; i < count; ++i) rounded[i] = kernels::F32ToBf16(values[i]);
      from = rounded.data();
    }
    backend_.CopyIn(at, from, count * DTypeBytes(dtype));
    backend_.Synchronize();
    return at + count * DTypeBytes(dtype);
  }

  kernels::Backend& backend_;
  TensorSource& source_;
  const ModelConfig& config_;
  ModelWeights& weights_;
  std::vector<Placement> placements_;
  std::vector<float> staging_;
  size_t block_bytes_ = 0;
  LoadReport report_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelWeights>> LoadWeights(kernels::Backend& backend,
                                                          const std::string& directory,
                                                          const ModelConfig& config,
                                                          const Shard& shard, LoadReport* report) {
  BALEEN_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(directory));
  return LoadWeights(backend, checkpoint, config, shard, report);
}

absl::StatusOr<std::unique_ptr<ModelWeights>> LoadWeights(kernels::Backend& backend,
                                                          TensorSource& source,
                                                          const ModelConfig& config,
                                                          const Shard& shard, LoadReport* report) {
  auto weights = std::make_unique<ModelWeights>();
  const std::vector<WeightSpec> specs = WeightTable(config, shard, *weights);
  Loader loader(backend, source, config, *weights);
  BALEEN_RETURN_IF_ERROR(loader.Plan(specs));
  BALEEN_RETURN_IF_ERROR(loader.Load());
  if (report != nullptr) *report = loader.report();
  return weights;
}

}  // namespace baleen::model
