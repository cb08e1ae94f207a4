#include "model/checkpoint/loader.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <thread>

#include "absl/functional/function_ref.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "kernels/cpu/thread_pool.h"
#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/convert.h"
#include "model/checkpoint/progress.h"
#include "model/checkpoint/upload.h"
#include "model/checkpoint/weight_table.h"

namespace baleen::model {
namespace {

using kernels::Weight;
using kernels::WeightStorage;

constexpr size_t kAlignment = 256;                // of every array in the block
constexpr size_t kSliceBytes = 512 << 10;         // of a part that one thread copies
constexpr uint64_t kReadAheadBytes = 256u << 20;  // of the files, beyond what is being stored

// A thread copies some 10 GB/s out of the page cache, and a GPU takes five times that out of pinned
// memory. Many more threads gain nothing: the processes of a machine share its memory's bandwidth.
// A CPU's process has one core (worker.cpu_threads) and writes parts in their place.
int StoreThreads(const kernels::Backend& backend) {
  if (backend.host_memory()) return 1;
  return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 8u));
}

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
  uint64_t bytes() const { return tensor.bytes() + (fp8() ? scales.bytes() : 0); }
};

class Loader {
 public:
  Loader(kernels::Backend& backend, TensorSource& source, const ModelConfig& config,
         ModelWeights& weights)
      : backend_(backend),
        source_(source),
        config_(config),
        weights_(weights),
        pool_(StoreThreads(backend)) {}

  absl::Status Plan(const std::vector<WeightSpec>& specs) {
    for (const WeightSpec& spec : specs) {
      Placement& p = placements_.emplace_back(Placement{.spec = &spec});
      BALEEN_RETURN_IF_ERROR(FindTensors(p));
      // They are small and far apart: all are asked for before the first is checked.
      if (p.fp8()) WillNeed({p.scales.data, p.scales.bytes()});
    }
    for (size_t i = 0; i < placements_.size(); ++i) {
      const Placement& p = placements_[i];
      if (p.fp8()) {
        BALEEN_RETURN_IF_ERROR(CheckScales(p.scales));
      }
      BALEEN_RETURN_IF_ERROR(Place(i));
      report_.tensors += p.fp8() ? 2 : 1;
      report_.bytes_read += p.bytes();
    }
    report_.bytes_stored = block_bytes_;
    return absl::OkStatus();
  }

  absl::Status Load() {
    weights_.memory = DeviceBlock(backend_, block_bytes_);
    if (weights_.memory.data() == nullptr) {
      const kernels::Backend::Memory memory = backend_.memory();
      return absl::ResourceExhaustedError(
          absl::StrCat("the weights want ", block_bytes_, " bytes of the ", backend_.name(),
                       " backend's memory, ", memory.free, " of ", memory.total, " are free"));
    }
    BALEEN_ASSIGN_OR_RETURN(upload_, Upload::Create(backend_));
    Progress progress("weights", report_.bytes_read, StderrIsTerminal(), SteadyClock(),
                      PrintProgress);
    for (const Placement& p : placements_) {
      ReadAhead(progress.bytes());
      Store(p);
      progress.Add(p.bytes());
    }
    upload_->Finish();
    return absl::OkStatus();
  }

  const LoadReport& report() const { return report_; }

 private:
  absl::Status FindTensors(Placement& p) {
    const WeightSpec& spec = *p.spec;
    BALEEN_ASSIGN_OR_RETURN(p.tensor, source_.Find(spec.name));
    BALEEN_RETURN_IF_ERROR(CheckShape(p.tensor, spec.shape));
    BALEEN_RETURN_IF_ERROR(CheckExpert(p));
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

  // Ranks send each other rows in the form that their experts take.
  absl::Status CheckExpert(const Placement& p) const {
    const bool fp8 = p.tensor.entry->dtype == FileDType::kF8E4M3;
    if (!absl::StrContains(p.spec->name, ".mlp.experts.") || fp8 == config_.fp8_experts)
      return absl::OkStatus();
    return Error(p.tensor, "dtype",
                 absl::StrCat(FileDTypeName(p.tensor.entry->dtype), ", but config.json has ",
                              config_.fp8_experts ? "a" : "no", " quantization_config"));
  }

  absl::Status FindScales(Placement& p) {
    BALEEN_ASSIGN_OR_RETURN(p.scales, source_.Find(p.spec->name + "_scale_inv"));
    BALEEN_RETURN_IF_ERROR(
        CheckShape(p.scales, {ScaleBlocks(p.spec->shape[0]), ScaleBlocks(p.spec->shape[1])}));
    if (p.scales.entry->dtype != FileDType::kF32) {
      return Error(p.scales, "dtype",
                   absl::StrCat(FileDTypeName(p.scales.entry->dtype), " is not F32"));
    }
    return absl::OkStatus();
  }

  absl::Status Place(size_t index) {
    Placement& p = placements_[index];
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
      return PlaceSecondHalf(placements_[index - 1], p);
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
  absl::Status PlaceSecondHalf(const Placement& upper, Placement& p) {
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
    StoreBytes(p.tensor, at);
    if (p.dtype != DType::kF8E4M3) return;
    scales += size_t(spec.first_row / kScaleBlock) * ScaleBlocks(cols) * sizeof(float);
    StoreBytes(p.scales, scales);
  }

  // body(begin, end) of slices that make up [0, bytes), on all threads.
  void ForSlices(size_t bytes, absl::FunctionRef<void(size_t begin, size_t end)> body) {
    const auto slices = static_cast<int64_t>((bytes + kSliceBytes - 1) / kSliceBytes);
    pool_.ParallelFor(slices, static_cast<int64_t>(bytes), [&](int /*worker*/, int64_t i) {
      const size_t begin = static_cast<size_t>(i) * kSliceBytes;
      body(begin, std::min(bytes, begin + kSliceBytes));
    });
  }

  // A disk reads the next tensors while those before, which end at `stored`, are on their way.
  void ReadAhead(uint64_t stored) {
    for (; next_read_ < placements_.size() && asked_ < stored + kReadAheadBytes; ++next_read_) {
      const Placement& p = placements_[next_read_];
      ForSlices(p.tensor.bytes(), [&](size_t begin, size_t end) {
        WillNeed({p.tensor.data + begin, end - begin});
      });
      asked_ += p.bytes();
    }
  }

  void StoreBytes(const TensorView& tensor, std::byte* at) {
    for (size_t done = 0; done < tensor.bytes(); done += Upload::kPartBytes) {
      const size_t bytes = std::min<size_t>(Upload::kPartBytes, tensor.bytes() - done);
      upload_->Put(at + done, bytes, [&](std::byte* room) {
        ForSlices(bytes, [&](size_t begin, size_t end) {
          std::memcpy(room + begin, tensor.data + done + begin, end - begin);
        });
      });
    }
  }

  // Rows [first, first + rows) of the tensor as f32.
  static void ConvertRows(const Placement& p, int64_t cols, int64_t first, int64_t rows,
                          float* out) {
    if (p.fp8()) return DequantizeF8(p.tensor.data, p.scales.data, first, rows, cols, out);
    const FileDType dtype = p.tensor.entry->dtype;
    ConvertToF32(dtype, p.tensor.data + size_t(first) * cols * FileDTypeBytes(dtype), rows * cols,
                 out);
  }

  void StoreConverted(const Placement& p, int64_t cols, std::byte* at) {
    const size_t row_bytes = size_t(cols) * sizeof(float);
    InParts(p.spec->shape[0], row_bytes, at, [&](int64_t first, int64_t rows, std::byte* room) {
      ConvertRows(p, cols, first, rows, reinterpret_cast<float*>(room));
    });
  }

  // Puts `items` of `item_bytes` each, at `at`, in parts of as many as fit; write(first, count,
  // room) fills each.
  void InParts(int64_t items, size_t item_bytes, std::byte* at,
               absl::FunctionRef<void(int64_t first, int64_t count, std::byte* room)> write) {
    const auto step = static_cast<int64_t>(std::max(size_t{1}, Upload::kPartBytes / item_bytes));
    for (int64_t first = 0; first < items; first += step) {
      const int64_t count = std::min(step, items - first);
      upload_->Put(at + first * item_bytes, count * item_bytes,
                   [&](std::byte* room) { write(first, count, room); });
    }
  }

  // Splits kv_b, head by head, into w_uk [heads, kv_lora, nope] and w_uv [heads, v, kv_lora] (2.4).
  void StoreAbsorbed(const Placement& p) {
    const int64_t nope = config_.qk_nope_head_dim;
    const int64_t v = config_.v_head_dim;
    const int64_t lora = config_.kv_lora_rank;
    std::byte* const uk = weights_.memory.data() + p.offset;
    std::byte* const uv = weights_.memory.data() + p.scale_offset;
    p.spec->absorbed->w_uk = {uk, p.dtype};
    p.spec->absorbed->w_uv = {uv, p.dtype};
    StoreHeads(p, uk, 0, nope, [&](const float* rows, std::byte* out) {
      TransposeTo(p.dtype, rows, nope, lora, out);
    });
    StoreHeads(p, uv, nope, v,
               [&](const float* rows, std::byte* out) { RoundTo(p.dtype, rows, v * lora, out); });
  }

  // Of each head's rows of kv_b those from `first` on, `rows` many, as `write` leaves them.
  void StoreHeads(const Placement& p, std::byte* at, int64_t first, int64_t rows,
                  absl::FunctionRef<void(const float* rows, std::byte* out)> write) {
    const int64_t head_rows = config_.qk_nope_head_dim + config_.v_head_dim;
    const int64_t lora = config_.kv_lora_rank;
    const size_t head_bytes = size_t(rows) * lora * DTypeBytes(p.dtype);
    const auto convert = [&](int64_t first_head, int64_t heads, std::byte* room) {
      pool_.ParallelFor(heads, heads * rows * lora, [&](int /*worker*/, int64_t i) {
        std::vector<float> values(rows * lora);
        ConvertRows(p, lora, (first_head + i) * head_rows + first, rows, values.data());
        write(values.data(), room + i * head_bytes);
      });
    };
    InParts(config_.num_attention_heads, head_bytes, at, convert);
  }

  kernels::Backend& backend_;
  TensorSource& source_;
  const ModelConfig& config_;
  ModelWeights& weights_;
  std::vector<Placement> placements_;
  size_t block_bytes_ = 0;
  LoadReport report_;
  kernels::cpu::ThreadPool pool_;
  std::unique_ptr<Upload> upload_;
  size_t next_read_ = 0;  // of placements_: those before have been asked for
  uint64_t asked_ = 0;    // their bytes
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
