#include "model/activations.h"

#include <algorithm>

#include "model/matrix_views.h"

namespace baleen::model {
namespace {

using kernels::Matrix;
using kernels::Quantized;

// Hands out aligned pieces one after another; Rewind lets the next ones share memory with the last.
class Arena {
 public:
  explicit Arena(std::byte* base) : base_(base) {}

  template <typename T>
  T* Array(size_t count) {
    std::byte* at = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    peak_ = std::max(peak_, used_);
    return reinterpret_cast<T*>(at);
  }

  Matrix Rows(DType dtype, int64_t rows, int64_t cols) {
    return {.data = Array<std::byte>(size_t(rows) * cols * DTypeBytes(dtype)),
            .dtype = dtype,
            .rows = static_cast<int>(rows),
            .cols = static_cast<int>(cols),
            .stride = cols};
  }

  Quantized Fp8(int64_t rows, int64_t cols) {
    uint8_t* data = Array<uint8_t>(size_t(rows) * cols);
    return {data, Array<float>(size_t(rows) * (cols / 128)), static_cast<int>(rows),
            static_cast<int>(cols)};
  }

  size_t used() const { return used_; }
  size_t peak() const { return peak_; }
  void Rewind(size_t used) { used_ = used; }

 private:
  static constexpr size_t kAlignment = 256;
  std::byte* const base_;
  size_t used_ = 0;
  size_t peak_ = 0;
};

class Planner {
 public:
  Planner(const ModelConfig& config, const Shard& shard, const ForwardOptions& options,
          std::byte* base)
      : c_(config), shard_(shard), options_(options), arena_(base) {}

  PlannedActivations Plan() {
    Stream();
    const size_t shared = arena_.used();
    Attention();
    if (c_.has_indexer) Indexer();
    arena_.Rewind(shared);
    FeedForward();
    arena_.Rewind(shared);
    if (shard_.mtp) MtpInput();
    return {a_, arena_.peak()};
  }

 private:
  void Stream() {
    a_.x = Act(c_.hidden_size);
    a_.residual = Act(c_.hidden_size);
    a_.h = Act(c_.hidden_size);
    a_.h8 = Fp8(c_.hidden_size);
    a_.stream = F32(c_.hidden_size);
    if (shard_.mtp) a_.mtp_hidden = Act(c_.hidden_size);
    if (!shard_.last()) return;
    a_.hidden = Act(c_.hidden_size);
    a_.head_in = arena_.Rows(act_, options_.max_head_rows, c_.hidden_size);
    a_.head_logits = arena_.Rows(DType::kF32, options_.max_head_rows, c_.vocab_size);
  }

  void Attention() {
    const int heads = c_.num_attention_heads;
    auto& a = a_.attention;
    a.q_latent = Act(c_.q_lora_rank);
    a.q_latent8 = Fp8(c_.q_lora_rank);
    a.q = Act(heads * c_.qk_head_dim());
    a.kv = Act(c_.kv_lora_rank + c_.qk_rope_head_dim);
    a.absorbed = Act(heads * c_.kv_lora_rank);
    a.mixed = Act(heads * c_.kv_lora_rank);
    a.out = Act(heads * c_.v_head_dim);
    a.out8 = Fp8(heads * c_.v_head_dim);
  }

  void Indexer() {
    auto& a = a_.indexer;
    a.q = Act(c_.index_n_heads * c_.index_head_dim);
    a.q8 = Fp8(c_.index_n_heads * c_.index_head_dim);
    a.k = Act(c_.index_head_dim);
    a.weights = F32(c_.index_n_heads);
    const int64_t all = int64_t{options_.max_rows} * options_.max_context;
    a.score_count = std::min<int64_t>(all, options_.score_bytes / sizeof(float));
    a.score_count = std::max<int64_t>(a.score_count, options_.max_context);
    a.scores = arena_.Array<float>(a.score_count);
    a.selected = arena_.Array<int32_t>(size_t(options_.max_rows) * c_.index_topk);
  }

  void FeedForward() {
    auto& a = a_.ffn;
    const int width = std::max(c_.first_k_dense_replace > 0 ? c_.intermediate_size : 0,
                               c_.shared_intermediate_size());
    const int ranks = c_.n_routed_experts / (shard_.end_expert - shard_.first_expert);
    a.gate_up = Act(2 * width);
    a.mid = Act(width);
    a.mid8 = Fp8(width);
    a.router_logits = F32(c_.n_routed_experts);
    a.expert_ids = arena_.Array<int32_t>(size_t(options_.max_rows) * c_.num_experts_per_tok);
    a.expert_weights = arena_.Array<float>(size_t(options_.max_rows) * c_.num_experts_per_tok);
    a.expert_out = arena_.Rows(act_, int64_t{options_.max_rows} * ranks * c_.num_experts_per_tok,
                               c_.hidden_size);
  }

  void MtpInput() {
    a_.mtp.embedding = Act(c_.hidden_size);
    a_.mtp.hidden = Act(c_.hidden_size);
    a_.mtp.joined = Act(2 * c_.hidden_size);
  }

  Matrix Act(int cols) { return arena_.Rows(act_, options_.max_rows, cols); }
  Matrix F32(int cols) { return arena_.Rows(DType::kF32, options_.max_rows, cols); }
  Quantized Fp8(int cols) {
    return options_.numerics == Numerics::kFp8 ? arena_.Fp8(options_.max_rows, cols) : Quantized{};
  }

  const ModelConfig& c_;
  const Shard& shard_;
  const ForwardOptions& options_;
  const DType act_ = ActivationDType(options_.numerics);
  Arena arena_;
  Activations a_;
};

}  // namespace

Activations Activations::ForRows(int rows) const {
  Activations a = *this;
  for (Matrix* m : {&a.x,
                    &a.residual,
                    &a.h,
                    &a.stream,
                    &a.hidden,
                    &a.mtp_hidden,
                    &a.attention.q_latent,
                    &a.attention.q,
                    &a.attention.kv,
                    &a.attention.absorbed,
                    &a.attention.mixed,
                    &a.attention.out,
                    &a.indexer.q,
                    &a.indexer.k,
                    &a.indexer.weights,
                    &a.ffn.gate_up,
                    &a.ffn.mid,
                    &a.ffn.router_logits,
                    &a.mtp.embedding,
                    &a.mtp.hidden,
                    &a.mtp.joined}) {
    m->rows = rows;
  }
  for (Quantized* q :
       {&a.h8, &a.attention.q_latent8, &a.attention.out8, &a.indexer.q8, &a.ffn.mid8}) {
    q->rows = rows;
  }
  return a;
}

PlannedActivations PlanActivations(const ModelConfig& config, const Shard& shard,
                                   const ForwardOptions& options, std::byte* base) {
  return Planner(config, shard, options, base).Plan();
}

}  // namespace baleen::model
