// Prefill and decode of a checkpoint on the CPU, each beside the bare products of the same shapes
// with the same kernel in the same run, and the time of every operation. Two floors: the products
// with weights, and these with the products over the context (indexer, scores, values). With one
// thread the time is the process's CPU time, which other processes disturb little; with more it is
// wall time. The least of some runs.
//
//   model_bench [MODEL_DIR] [THREADS] [exact|fp8]      default: models/tiny-dsv32 1 exact
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <map>
#include <random>
#include <string>

#include "common/check.h"
#include "kernels/backend.h"
#include "model/checkpoint/loader.h"
#include "model/config.h"
#include "model/forward.h"
#include "model/in_process_exchange.h"

namespace baleen::model {
namespace {

using kernels::Backend;
using kernels::Matrix;

double MillisecondsOf(clockid_t clock) {
  timespec t = {};
  BALEEN_CHECK(clock_gettime(clock, &t) == 0);
  return t.tv_sec * 1e3 + t.tv_nsec * 1e-6;
}

// A backend that times every operation of another and can repeat the products it has seen.
class TimedBackend final : public Backend {
 public:
  TimedBackend(std::unique_ptr<Backend> inner, clockid_t clock)
      : inner_(std::move(inner)), clock_(clock) {}

  double Milliseconds() const { return MillisecondsOf(clock_); }

#define BALEEN_TIMED(op)                           \
  void op(const kernels::op##Params& p) override { \
    Time(#op, [&] { inner_->op(p); });             \
  }
  BALEEN_TIMED(Embed)
  BALEEN_TIMED(AddRmsNorm)
  BALEEN_TIMED(Quantize)
  BALEEN_TIMED(Rope)
  BALEEN_TIMED(LayerNorm)
  BALEEN_TIMED(Hadamard)
  BALEEN_TIMED(StoreLatent)
  BALEEN_TIMED(StoreIndexKeys)
  BALEEN_TIMED(ScaleIndexWeights)
  BALEEN_TIMED(TopK)
  BALEEN_TIMED(Gate)
  BALEEN_TIMED(SiluMul)
  BALEEN_TIMED(Combine)
  BALEEN_TIMED(GatherRows)
  BALEEN_TIMED(Concat)
  BALEEN_TIMED(Sample)
  BALEEN_TIMED(AcceptDrafts)
  BALEEN_TIMED(DraftRows)
  BALEEN_TIMED(FollowRows)
#undef BALEEN_TIMED

  void Linear(const kernels::LinearParams& p) override {
    Time("Linear", [&] { inner_->Linear(p); });
    Remember([this, p] { inner_->Linear(p); });
  }
  void HeadLinear(const kernels::HeadLinearParams& p) override {
    Time("HeadLinear", [&] { inner_->HeadLinear(p); });
    Remember([this, p] { inner_->HeadLinear(p); });
  }
  // Repeated as one product a half and expert, over as many rows as chose it.
  void Experts(const kernels::ExpertsParams& p) override {
    Time("Experts", [&] { inner_->Experts(p); });
    for (int e = 0; e < p.experts; ++e) {
      int rows = 0;
      for (int i = 0; i < p.x.rows * p.topk; ++i) rows += p.ids[i] == p.first_expert + e;
      if (rows == 0) continue;
      RememberProduct(p.gate_up[e], rows);
      RememberProduct(p.down[e], rows);
    }
  }

  // Repeated over the same keys for some rows at once, as queries of one sequence are.
  void IndexerLogits(const kernels::IndexerLogitsParams& p) override {
    Time("IndexerLogits", [&] { inner_->IndexerLogits(p); });
    const int dim = p.cache.layout.index_dim;
    for (int r = 0, count = 0; r < p.rows.rows; r += count) {
      for (count = 1; r + count < p.rows.rows && count < 8 &&
                      p.rows.sequences[r + count] == p.rows.sequences[r];) {
        ++count;
      }
      const int keys = p.rows.positions[r + count - 1] + 1;
      RememberOverContext(count * p.heads, dim, keys);
    }
  }
  void SparseAttention(const kernels::SparseAttentionParams& p) override {
    Time("SparseAttention", [&] { inner_->SparseAttention(p); });
    const int lora = p.cache.layout.kv_lora;
    for (int r = 0; r < p.rows.rows; ++r) {
      const int seen = p.rows.positions[r] + 1;
      const int keys = p.indices != nullptr ? std::min(p.topk, seen) : seen;
      RememberOverContext(p.heads, lora + p.cache.layout.rope, keys);
      RememberOverContext(p.heads, keys, lora);
    }
  }

  size_t ScratchBytes(const kernels::StepLimits& limits) const override {
    return inner_->ScratchBytes(limits);
  }
  void UseScratch(const kernels::StepLimits& limits, void* memory, size_t bytes) override {
    inner_->UseScratch(limits, memory, bytes);
  }
  Memory memory() const override { return inner_->memory(); }
  void* Allocate(size_t bytes) override { return inner_->Allocate(bytes); }
  void Free(void* p) override { inner_->Free(p); }
  void CopyIn(void* dst, const void* host, size_t bytes) override {
    inner_->CopyIn(dst, host, bytes);
  }
  void CopyOut(void* host, const void* src, size_t bytes) override {
    inner_->CopyOut(host, src, bytes);
  }
  void CopyWithin(void* dst, const void* src, size_t bytes) override {
    inner_->CopyWithin(dst, src, bytes);
  }
  bool can_record() const override { return false; }
  std::unique_ptr<Recording> Record(absl::FunctionRef<void()>) override { return nullptr; }
  void Synchronize() override { inner_->Synchronize(); }
  kernels::WeightStorage weight_storage() const override { return inner_->weight_storage(); }
  bool host_memory() const override { return inner_->host_memory(); }
  const char* name() const override { return inner_->name(); }

  void Clear() {
    milliseconds_.clear();
    products_.clear();
    context_products_.clear();
  }
  const std::map<std::string, double>& milliseconds() const { return milliseconds_; }

  // Time of the products remembered since Clear: with weights, and over the context.
  double RepeatProducts() { return Repeat(products_); }
  double RepeatContextProducts() { return Repeat(context_products_); }
  bool remember = false;

 private:
  template <typename F>
  void Time(const char* op, const F& run) {
    const double begin = Milliseconds();
    run();
    milliseconds_[op] += Milliseconds() - begin;
  }

  void Remember(std::function<void()> product) {
    if (remember) products_.push_back(std::move(product));
  }

  void RememberProduct(const kernels::Weight& w, int rows) {
    if (!remember) return;
    kernels::Weight f32 = w;
    f32.fp8_input = false;
    const Matrix x = Rows(x_, rows, w.in), y = Rows(y_, rows, w.out);
    products_.push_back([this, x, y, f32] { inner_->Linear({.x = x, .w = f32, .y = y}); });
  }

  void RememberOverContext(int rows, int in, int out) {
    if (!remember) return;
    const Matrix x = Rows(x_, rows, in), y = Rows(y_, rows, out);
    BALEEN_CHECK(size_t(in) * out <= keys_.size());
    const kernels::Weight w{.data = keys_.data(), .out = out, .in = in};
    context_products_.push_back([this, x, y, w] { inner_->Linear({.x = x, .w = w, .y = y}); });
  }

  double Repeat(const std::vector<std::function<void()>>& products) {
    const double begin = Milliseconds();
    for (const auto& product : products) product();
    return Milliseconds() - begin;
  }

  static Matrix Rows(std::vector<float>& memory, int rows, int cols) {
    BALEEN_CHECK(size_t(rows) * cols <= memory.size());
    return {.data = memory.data(), .rows = rows, .cols = cols, .stride = cols};
  }

  std::unique_ptr<Backend> inner_;
  const clockid_t clock_;
  std::map<std::string, double> milliseconds_;
  std::vector<std::function<void()>> products_;
  std::vector<std::function<void()>> context_products_;
  std::vector<float> x_ = std::vector<float>(8 << 20, 0.5f);
  std::vector<float> y_ = std::vector<float>(8 << 20);
  std::vector<float> keys_ = std::vector<float>(8 << 20, 0.5f);
};

constexpr int kMaxContext = 8192 + 64;
constexpr int kChunk = 2048;
constexpr int kMaxSequences = 32;

class Bench {
 public:
  Bench(const std::string& directory, int threads, Numerics numerics)
      : backend_(kernels::MakeCpuBackend(threads),
                 threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC) {
    config_ = Take(LoadModelConfig(directory));
    const Shard shard = WholeModel(config_, false);
    weights_ = Take(LoadWeights(backend_, directory, config_, shard));
    const KvLayout layout = LayoutOf(config_, shard, numerics);
    stride_ = static_cast<int>(PagesFor(kMaxContext));
    const int decode_pages = static_cast<int>(PagesFor(kDecodeContext + 64));
    for (int s = 0; s < kMaxSequences; ++s) {
      for (int i = 0; i < stride_; ++i) {
        page_table_.push_back(s == 0 ? i : stride_ + (s - 1) * decode_pages + i % decode_pages);
      }
    }
    pool_ =
        DeviceBlock(backend_, layout.PageBytes() * (stride_ + (kMaxSequences - 1) * decode_pages));
    forward_ = Take(Forward::Create(backend_, config_, *weights_, exchange_, shard,
                                    {.numerics = numerics,
                                     .layout = layout,
                                     .pool = pool_.data(),
                                     .max_rows = kChunk,
                                     .max_sequences = kMaxSequences,
                                     .max_head_rows = kMaxSequences,
                                     .max_context = kMaxContext}));
  }

  void Prefill(int tokens) {
    const auto run = [&] {
      for (int begin = 0; begin < tokens; begin += kChunk) {
        rows_ = {};
        Append(0, begin, std::min(kChunk, tokens - begin));
        Step(/*head_rows=*/begin + kChunk >= tokens ? 1 : 0);
      }
    };
    Report("prefill " + std::to_string(tokens), tokens, run);
  }

  // One step of `sequences` rows, each with kDecodeContext keys.
  void Decode(int sequences) {
    for (int s = 0; s < sequences; ++s) {
      rows_ = {};
      Append(s, 0, kDecodeContext);
      Step(0);
    }
    rows_ = {};
    for (int s = 0; s < sequences; ++s) Append(s, kDecodeContext, 1);
    Report("decode " + std::to_string(sequences), sequences, [&] { Step(sequences); });
  }

 private:
  static constexpr int kDecodeContext = 1000;
  static constexpr int kRuns = 5;

  template <typename T>
  static T Take(absl::StatusOr<T> value) {
    if (!value.ok()) {
      std::fprintf(stderr, "%s\n", value.status().ToString().c_str());
      std::exit(1);
    }
    return *std::move(value);
  }

  void Append(int sequence, int position, int count) {
    for (int i = 0; i < count; ++i) {
      rows_.tokens.push_back(static_cast<int32_t>(rng_() % config_.vocab_size));
      rows_.positions.push_back(position + i);
      rows_.sequences.push_back(sequence);
    }
  }

  void Step(int head_rows) {
    forward_->RunMain({rows_.tokens, rows_.positions, rows_.sequences, page_table_, stride_});
    std::vector<int32_t> last;
    for (int i = 0; i < head_rows; ++i) {
      last.push_back(static_cast<int32_t>(rows_.tokens.size()) - head_rows + i);
    }
    forward_->Logits(Forward::Hidden::kMain, last);
  }

  // The fastest of some runs, and the bare products of that size.
  void Report(const std::string& what, int tokens, const std::function<void()>& run) {
    double best = 1e300;
    std::map<std::string, double> ops;
    run();
    for (int i = 0; i < kRuns; ++i) {
      backend_.Clear();
      const double begin = backend_.Milliseconds();
      run();
      const double ms = backend_.Milliseconds() - begin;
      if (ms < best) ops = backend_.milliseconds();
      best = std::min(best, ms);
    }
    backend_.Clear();
    backend_.remember = true;
    run();
    backend_.remember = false;
    double products = 1e300;
    double context = 1e300;
    for (int i = 0; i < kRuns; ++i) {
      products = std::min(products, backend_.RepeatProducts());
      context = std::min(context, backend_.RepeatContextProducts());
    }
    std::printf("%-14s %9.2f ms %9.0f tokens/s\n", what.c_str(), best, tokens / best * 1e3);
    std::printf(
        "    bare products with weights %.2f ms (ratio %.2f), and over the context %.2f ms ",
        products, best / products, products + context);
    std::printf("(ratio %.2f)\n", best / (products + context));
    double rest = best;
    for (const auto& [op, ms] : ops) {
      rest -= ms;
      if (ms > best / 100)
        std::printf("    %-18s %9.3f ms %5.1f %%\n", op.c_str(), ms, ms / best * 100);
    }
    std::printf("    %-18s %9.3f ms %5.1f %%\n", "(outside)", rest, rest / best * 100);
  }

  struct Lists {
    std::vector<int32_t> tokens, positions, sequences;
  };

  TimedBackend backend_;
  ModelConfig config_;
  std::unique_ptr<ModelWeights> weights_;
  InProcessExchange exchange_;
  DeviceBlock pool_;
  int stride_ = 0;
  std::vector<int32_t> page_table_;
  std::unique_ptr<Forward> forward_;
  Lists rows_;
  std::mt19937 rng_{1};
};

}  // namespace
}  // namespace baleen::model

int main(int argc, char** argv) {
  using baleen::Numerics;
  const std::string directory = argc > 1 ? argv[1] : "models/tiny-dsv32";
  const int threads = argc > 2 ? std::atoi(argv[2]) : 1;
  const bool fp8 = argc > 3 && std::string(argv[3]) == "fp8";
  baleen::model::Bench bench(directory, threads, fp8 ? Numerics::kFp8 : Numerics::kExact);
  for (const int tokens : {512, 2048, 8192}) bench.Prefill(tokens);
  for (const int sequences : {1, 8, 32}) bench.Decode(sequences);
  return 0;
}
