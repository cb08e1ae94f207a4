#include "model/mla.h"

#include <cmath>
#include <random>

#include "gtest/gtest.h"
#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/convert.h"
#include "model/device_batch.h"
#include "model/rope.h"
#include "tests/model/tiny_model.h"

namespace baleen::model {
namespace {

using ::baleen::testing::TinyConfig;
using ::baleen::testing::ValueOrDie;
using Doubles = std::vector<double>;

constexpr int kRows = 20;

// Layer 0 of the tiny model over kRows tokens of one sequence.
class MlaTest : public ::testing::Test {
 protected:
  MlaTest() {
    const RopeTable rope = MakeRopeTable(c_.rope, c_.qk_rope_head_dim, kRows);
    cos_ = rope.cos;
    sin_ = rope.sin;
    batch_.Upload({{}, positions_, sequences_, pages_, 1}, {}, 0);
    act_ = PlanActivations(c_, shard_, options_, memory_.data()).activations.ForRows(kRows);
    std::mt19937 rng(11);
    std::normal_distribution<float> normal;
    for (int i = 0; i < kRows * c_.hidden_size; ++i) act_.h.row<float>(0)[i] = normal(rng);
    for (int32_t p = 0; p < kRows; ++p) EXPECT_EQ(positions_[p], p);
  }

  const int32_t* Run() {
    const StepContext step = {.backend = *backend_,
                              .config = c_,
                              .shard = shard_,
                              .exchange = exchange_,
                              .rope_cos = cos_.data(),
                              .rope_sin = sin_.data(),
                              .attention_scale = static_cast<float>(AttentionScale(c_)),
                              .fp8 = false,
                              .act = act_,
                              .rows = batch_.rows().map,
                              .positions = batch_.rows().host_positions,
                              .keys = batch_.rows().keys};
    return Mla(step, w_.attention, w_.indexer, cache_);
  }

  const ModelConfig& c_ = TinyConfig();
  const Shard shard_ = {
      .first_layer = 0, .end_layer = 1, .end_expert = c_.n_routed_experts, .num_layers = 4};
  const KvLayout layout_ = LayoutOf(c_, shard_, Numerics::kExact);
  std::unique_ptr<kernels::Backend> backend_ = kernels::MakeCpuBackend(1);
  std::unique_ptr<ModelWeights> weights_ =
      ValueOrDie(LoadWeights(*backend_, testing::kTinyDirectory, c_, shard_));
  const LayerWeights& w_ = weights_->layers[0];
  std::vector<std::byte> pool_ = std::vector<std::byte>(2 * layout_.PageBytes());
  const kernels::LayerCache cache_ = {pool_.data(), layout_.PageBytes(), 0, layout_};
  const ForwardOptions options_ = {
      .max_rows = kRows, .max_sequences = 1, .max_head_rows = 1, .max_context = kPageTokens};
  DeviceBlock memory_{*backend_, PlanActivations(c_, shard_, options_, nullptr).bytes};
  const std::vector<int32_t> positions_ = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,
                                           10, 11, 12, 13, 14, 15, 16, 17, 18, 19};
  const std::vector<int32_t> sequences_ = std::vector<int32_t>(kRows, 0);
  const std::vector<int32_t> pages_ = {1};
  DeviceBatch batch_{*backend_, options_};
  InProcessExchange exchange_;
  std::vector<float> cos_, sin_;
  Activations act_;
};

// x W^T in f64 of one row.
Doubles Product(const Doubles& x, const kernels::Weight& w) {
  Doubles y(w.out, 0.0);
  for (int o = 0; o < w.out; ++o) {
    const float* row = static_cast<const float*>(w.data) + int64_t{o} * w.in;
    for (int i = 0; i < w.in; ++i) y[o] += x[i] * row[i];
  }
  return y;
}

void RmsNorm(double* x, int dim, const float* weight) {
  double sum = 0;
  for (int i = 0; i < dim; ++i) sum += x[i] * x[i];
  for (int i = 0; i < dim; ++i) x[i] *= weight[i] / std::sqrt(sum / dim + 1e-6);
}

// Interleaved pairs, straight from the definition (3.2).
void Rotate(double* x, const ModelConfig& c, int position) {
  const std::vector<double> speed = RopeInverseFrequencies(c.rope, c.qk_rope_head_dim);
  for (int j = 0; j < c.qk_rope_head_dim / 2; ++j) {
    const double cos = std::cos(position * speed[j]), sin = std::sin(position * speed[j]);
    const double a = x[2 * j], b = x[2 * j + 1];
    x[2 * j] = a * cos - b * sin;
    x[2 * j + 1] = a * sin + b * cos;
  }
}

// The naive form of 3.5 in f64: keys and values of every head are made from the latents with kv_b
// itself, which Mla never sees whole.
class NaiveAttention {
 public:
  NaiveAttention(const ModelConfig& c, const AttentionWeights& w) : c_(c), w_(w) {
    auto checkpoint = ValueOrDie(Checkpoint::Open(testing::kTinyDirectory));
    const std::string name = "model.layers.0.self_attn.kv_b_proj.weight";
    const auto kv_b = ValueOrDie(checkpoint.Find(name));
    const auto scales = ValueOrDie(checkpoint.Find(name + "_scale_inv"));
    const int rows = c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim);
    kv_b_.resize(size_t(rows) * c.kv_lora_rank);
    DequantizeF8(kv_b.data, scales.data, 0, rows, c.kv_lora_rank, kv_b_.data());
    kv_b_weight_ = {.data = kv_b_.data(), .out = rows, .in = c.kv_lora_rank};
  }

  // Output of the token at `position`, whose key and value are added.
  Doubles Next(const float* h, int position) {
    const Doubles x(h, h + c_.hidden_size);
    Doubles latent = Product(x, w_.q_a);
    RmsNorm(latent.data(), c_.q_lora_rank, w_.q_a_norm);
    Doubles q = Product(latent, w_.q_b);
    Doubles kv = Product(x, w_.kv_a);
    RmsNorm(kv.data(), c_.kv_lora_rank, w_.kv_a_norm);
    Rotate(kv.data() + c_.kv_lora_rank, c_, position);
    rope_keys_.emplace_back(kv.begin() + c_.kv_lora_rank, kv.end());
    kv.resize(c_.kv_lora_rank);
    keys_values_.push_back(Product(kv, kv_b_weight_));
    Doubles heads;
    for (int head = 0; head < c_.num_attention_heads; ++head) {
      double* q_head = q.data() + head * c_.qk_head_dim();
      Rotate(q_head + c_.qk_nope_head_dim, c_, position);
      const Doubles out = Head(q_head, head);
      heads.insert(heads.end(), out.begin(), out.end());
    }
    return Product(heads, w_.o);
  }

 private:
  Doubles Head(const double* q, int head) const {
    const int nope = c_.qk_nope_head_dim;
    Doubles out(c_.v_head_dim, 0.0);
    double total = 0;
    for (size_t s = 0; s < keys_values_.size(); ++s) {
      const double* kv = keys_values_[s].data() + head * (nope + c_.v_head_dim);
      double score = 0;
      for (int d = 0; d < nope; ++d) score += q[d] * kv[d];
      for (int d = 0; d < c_.qk_rope_head_dim; ++d) score += q[nope + d] * rope_keys_[s][d];
      const double weight = std::exp(score * AttentionScale(c_));
      total += weight;
      for (int d = 0; d < c_.v_head_dim; ++d) out[d] += weight * kv[nope + d];
    }
    for (double& v : out) v /= total;
    return out;
  }

  const ModelConfig& c_;
  const AttentionWeights& w_;
  std::vector<float> kv_b_;
  kernels::Weight kv_b_weight_;
  std::vector<Doubles> keys_values_, rope_keys_;
};

TEST_F(MlaTest, TheAbsorbedFormEqualsTheNaiveOne) {
  Run();
  NaiveAttention naive(c_, w_.attention);
  for (int r = 0; r < kRows; ++r) {
    const Doubles want = naive.Next(act_.h.row<float>(r), r);
    double largest = 0;
    for (const double v : want) largest = std::max(largest, std::abs(v));
    ASSERT_GT(largest, 0.01);
    for (int i = 0; i < c_.hidden_size; ++i) {
      ASSERT_NEAR(act_.x.row<float>(r)[i], want[i], 1e-5 * largest) << "row " << r << ", " << i;
    }
  }
}

TEST_F(MlaTest, IndexKeysAreWrittenAlsoWhereNothingIsSelected) {
  EXPECT_EQ(Run(), nullptr);
  const auto* keys = reinterpret_cast<const float*>(cache_.layer(1) + layout_.IndexKeysOffset());
  for (int r = 0; r < kRows; ++r) {
    double sum = 0;
    for (int d = 0; d < c_.index_head_dim; ++d) sum += std::abs(keys[r * c_.index_head_dim + d]);
    EXPECT_GT(sum, 1) << "row " << r;
  }
}

}  // namespace
}  // namespace baleen::model
