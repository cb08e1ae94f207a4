#include "model/forward.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "model/activations.h"
#include "model/device_batch.h"
#include "model/layer.h"
#include "model/matrix_views.h"
#include "model/mtp.h"
#include "model/rope.h"
#include "model/weights.h"

namespace baleen::model {
namespace {

using kernels::Backend;
using kernels::LayerCache;
using kernels::Matrix;
using kernels::WeightStorage;

absl::Status Invalid(absl::string_view field, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(field, " ", what));
}

// Sizes that one row of fp8 with a scale per 128 columns must be able to hold.
absl::Status CheckFp8Sizes(const ModelConfig& c) {
  const std::pair<const char*, int> multiples[] = {
      {"hidden_size", c.hidden_size},
      {"q_lora_rank", c.q_lora_rank},
      {"num_attention_heads * v_head_dim", c.num_attention_heads * c.v_head_dim},
      {"intermediate_size", c.first_k_dense_replace > 0 ? c.intermediate_size : 0},
      {"moe_intermediate_size", c.moe_intermediate_size}};
  for (const auto& [field, size] : multiples) {
    if (size % 128 != 0) return Invalid(field, "must be a multiple of 128 with numerics fp8");
  }
  if (c.has_indexer && c.index_head_dim != 128) {
    return Invalid("index_head_dim", "must be 128 with numerics fp8");
  }
  return absl::OkStatus();
}

absl::Status CheckOptions(const Backend& backend, const ModelConfig& c, const Shard& shard,
                          const ForwardOptions& o) {
  if (o.max_rows < 1) return Invalid("max_rows", "must be positive");
  if (o.max_sequences < 1) return Invalid("max_sequences", "must be positive");
  if (o.max_head_rows < 1) return Invalid("max_head_rows", "must be positive");
  if (o.max_context < 1 || o.max_context > c.max_position_embeddings) {
    return Invalid("max_context", absl::StrCat("is ", o.max_context, ", the model has ",
                                               c.max_position_embeddings, " positions"));
  }
  if (o.pool == nullptr) return Invalid("pool", "is missing");
  if (!(o.layout == LayoutOf(c, shard, o.numerics))) {
    return Invalid("layout", "is not the shard's");
  }
  if (shard.mtp && !(c.has_mtp() && shard.last())) {
    return Invalid("shard.mtp", "needs a model with an MTP module and the last layer");
  }
  if (o.numerics == Numerics::kFp8) return CheckFp8Sizes(c);
  if (backend.weight_storage() != WeightStorage::kDequantized) {
    return Invalid("numerics", absl::StrCat("exact is not available on ", backend.name()));
  }
  return absl::OkStatus();
}

Matrix AsMatrix(const kernels::Weight& w) {
  return {.data = const_cast<void*>(w.data),
          .dtype = w.dtype,
          .rows = w.out,
          .cols = w.in,
          .stride = w.in};
}

// The largest step, for the backend's scratch.
kernels::StepLimits LimitsOf(const ModelConfig& c, const Shard& shard, const ForwardOptions& o) {
  const int experts = shard.end_expert - shard.first_expert;
  return {.rows = o.max_rows,
          .expert_rows = o.max_rows * (c.n_routed_experts / experts),
          .experts = experts,
          .experts_per_row = c.num_experts_per_tok,
          .expert_width = c.moe_intermediate_size,
          .head_rows = o.max_head_rows};
}

size_t RopeTableBytes(const ModelConfig& c, const ForwardOptions& o) {
  return size_t(o.max_context) * (c.qk_rope_head_dim / 2) * sizeof(float);
}

size_t HeadRowsBytes(const ForwardOptions& o) { return size_t(o.max_head_rows) * sizeof(int32_t); }

class ShardForward final : public Forward {
 public:
  ShardForward(Backend& backend, const ModelConfig& config, const ModelWeights& weights,
               ExpertExchange& exchange, const Shard& shard, const ForwardOptions& options)
      : backend_(backend),
        config_(config),
        weights_(weights),
        exchange_(exchange),
        shard_(shard),
        options_(options),
        batch_(backend, options) {}

  // Allocates the activations and the RoPE table; not OK when there is too little memory.
  absl::Status Allocate() {
    const kernels::StepLimits limits = LimitsOf(config_, shard_, options_);
    const size_t scratch_bytes = backend_.ScratchBytes(limits);
    const size_t table_bytes = RopeTableBytes(config_, options_);
    const RopeTable rope =
        MakeRopeTable(config_.rope, config_.qk_rope_head_dim, options_.max_context);
    BALEEN_CHECK(rope.cos.size() * sizeof(float) == table_bytes);
    activation_memory_ =
        DeviceBlock(backend_, PlanActivations(config_, shard_, options_, nullptr).bytes);
    rope_memory_ = DeviceBlock(backend_, 2 * table_bytes);
    head_rows_ = DeviceBlock(backend_, HeadRowsBytes(options_));
    scratch_ = DeviceBlock(backend_, scratch_bytes);
    if (activation_memory_.data() == nullptr || rope_memory_.data() == nullptr ||
        head_rows_.data() == nullptr || !batch_.allocated() ||
        (scratch_bytes > 0 && scratch_.data() == nullptr)) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "the forward pass wants ", Forward::PlannedBytes(backend_, config_, shard_, options_),
          " bytes of the ", backend_.name(), " backend's memory, ", backend_.memory().free,
          " are free"));
    }
    backend_.UseScratch(limits, scratch_.data(), scratch_bytes);
    activations_ =
        PlanActivations(config_, shard_, options_, activation_memory_.data()).activations;
    backend_.CopyIn(rope_memory_.data(), rope.cos.data(), table_bytes);
    backend_.CopyIn(rope_memory_.data() + table_bytes, rope.sin.data(), table_bytes);
    backend_.Synchronize();
    rope_cos_ = reinterpret_cast<const float*>(rope_memory_.data());
    rope_sin_ = reinterpret_cast<const float*>(rope_memory_.data() + table_bytes);
    return absl::OkStatus();
  }

  Matrix stream() override { return activations_.stream; }

  void RunMain(const Batch& batch) override {
    batch_.Upload(batch, {}, shard_.first() ? config_.vocab_size : 0);
    RunMain(batch_.rows());
  }

  void RunMain(const DeviceRows& rows) override {
    const StepContext step = Step(rows);
    const Activations& a = step.act;
    ResidualStream stream = {.x = shard_.first() ? a.x : a.stream};
    if (shard_.first()) {
      backend_.Embed({.table = AsMatrix(weights_.embedding), .ids = rows.tokens, .out = a.x});
    }
    for (size_t i = 0; i < weights_.layers.size(); ++i) {
      const int32_t* selected = RunLayer(step, weights_.layers[i], Cache(i), stream);
      if (observer_ != nullptr) ShowLayer(step, stream, static_cast<int>(i), selected);
    }
    if (shard_.last()) {
      FinalNorm(step, weights_.norm, stream, a.hidden);
    } else {
      Sum(stream, a.stream);
    }
    main_rows_ = step.rows.rows;
  }

  void RunMtp(const Batch& batch, Hidden from, std::span<const int32_t> hidden_rows) override {
    BALEEN_CHECK(hidden_rows.size() == batch.positions.size());
    const int rows = HiddenRows(from).rows;
    for (const int32_t row : hidden_rows) BALEEN_CHECK(row >= 0 && row < rows);
    batch_.Upload(batch, hidden_rows, config_.vocab_size);
    RunMtp(batch_.rows(), from, batch_.hidden_rows());
  }

  void RunMtp(const DeviceRows& rows, Hidden from, const int32_t* hidden_rows) override {
    BALEEN_CHECK(shard_.mtp);
    const StepContext step = Step(rows);
    RunMtpModule(step, weights_.mtp, AsMatrix(weights_.embedding), rows.tokens, HiddenRows(from),
                 hidden_rows, Cache(weights_.layers.size()));
    mtp_rows_ = step.rows.rows;
  }

  Matrix Head(Hidden of, const int32_t* rows, int count) override {
    BALEEN_CHECK(shard_.last() && count <= options_.max_head_rows);
    const Matrix in = FirstRows(activations_.head_in, count);
    const Matrix out = FirstRows(activations_.head_logits, count);
    backend_.GatherRows({.x = HiddenRows(of), .index = rows, .out = in});
    backend_.Linear({.x = in, .w = weights_.head, .y = out});
    return out;
  }

  Matrix Head(Hidden of, std::span<const int32_t> rows) override {
    const int count = static_cast<int>(rows.size());
    BALEEN_CHECK(count <= options_.max_head_rows);
    for (const int32_t row : rows) BALEEN_CHECK(row >= 0 && row < HiddenRows(of).rows);
    auto* index = reinterpret_cast<int32_t*>(head_rows_.data());
    if (count > 0) backend_.CopyIn(index, rows.data(), rows.size() * sizeof(int32_t));
    return Head(of, index, count);
  }

  std::span<const float> Logits(Hidden of, std::span<const int32_t> rows) override {
    const Matrix logits = Head(of, rows);
    const size_t count = rows.size() * config_.vocab_size;
    logits_.resize(std::max(logits_.size(), count));
    if (count > 0) backend_.CopyOut(logits_.data(), logits.data, count * sizeof(float));
    backend_.Synchronize();
    return {logits_.data(), count};
  }

  Backend& backend() override { return backend_; }
  bool same_rows() const override { return exchange_.same_rows(); }
  bool recordable() const override { return backend_.can_record() && exchange_.recordable(); }

  void Observe(LayerObserver observer, void* context) override {
    observer_ = observer;
    observer_context_ = context;
  }

 private:
  StepContext Step(const DeviceRows& rows) const {
    BALEEN_CHECK(rows.map.rows <= options_.max_rows);
    return {.backend = backend_,
            .config = config_,
            .shard = shard_,
            .exchange = exchange_,
            .rope_cos = rope_cos_,
            .rope_sin = rope_sin_,
            .attention_scale = static_cast<float>(AttentionScale(config_)),
            .fp8 = options_.numerics == Numerics::kFp8,
            .act = activations_.ForRows(rows.map.rows),
            .rows = rows.map,
            .positions = rows.host_positions,
            .keys = rows.keys};
  }

  LayerCache Cache(size_t local_layer) const {
    return {.pool = options_.pool,
            .page_bytes = options_.layout.PageBytes(),
            .layer_offset = options_.layout.LayerBytes() * local_layer,
            .layout = options_.layout};
  }

  // The rows that the last RunMain or RunMtp left.
  Matrix HiddenRows(Hidden of) const {
    return of == Hidden::kMain ? FirstRows(activations_.hidden, main_rows_)
                               : FirstRows(activations_.mtp_hidden, mtp_rows_);
  }

  // out = x + residual, not rounded
  void Sum(const ResidualStream& stream, const Matrix& out) {
    backend_.AddRmsNorm({.x = stream.x,
                         .residual = stream.residual,
                         .residual_out = out,
                         .eps = config_.rms_norm_eps});
  }

  void ShowLayer(const StepContext& step, const ResidualStream& stream, int local_layer,
                 const int32_t* selected) {
    Sum(stream, step.act.stream);
    observer_(observer_context_, shard_.first_layer + local_layer, step.act.stream, selected,
              config_.index_topk);
  }

  Backend& backend_;
  const ModelConfig& config_;
  const ModelWeights& weights_;
  ExpertExchange& exchange_;
  const Shard shard_;
  const ForwardOptions options_;

  DeviceBatch batch_;
  DeviceBlock activation_memory_, rope_memory_, head_rows_, scratch_;
  Activations activations_;
  const float* rope_cos_ = nullptr;
  const float* rope_sin_ = nullptr;
  std::vector<float> logits_;  // of the last Logits
  int main_rows_ = 0;          // of the last RunMain
  int mtp_rows_ = 0;           // of the last RunMtp
  LayerObserver observer_ = nullptr;
  void* observer_context_ = nullptr;
};

}  // namespace

size_t DefaultScoreBytes(const Backend& backend) {
  return backend.host_memory() ? size_t{64} << 20 : size_t{1} << 30;
}

size_t Forward::PlannedBytes(const Backend& backend, const ModelConfig& config, const Shard& shard,
                             const ForwardOptions& options) {
  return PlanActivations(config, shard, options, nullptr).bytes +
         2 * RopeTableBytes(config, options) + HeadRowsBytes(options) +
         DeviceBatch::Bytes(options) + backend.ScratchBytes(LimitsOf(config, shard, options));
}

absl::StatusOr<std::unique_ptr<Forward>> Forward::Create(
    Backend& backend, const ModelConfig& config, const ModelWeights& weights,
    ExpertExchange& exchange, const Shard& shard, const ForwardOptions& options) {
  BALEEN_RETURN_IF_ERROR(CheckOptions(backend, config, shard, options));
  auto forward = std::make_unique<ShardForward>(backend, config, weights, exchange, shard, options);
  BALEEN_RETURN_IF_ERROR(forward->Allocate());
  return forward;
}

}  // namespace baleen::model
