// Every operation whose time matters, on the GPU at DeepSeek-V3.2's sizes, beside its floor: the
// larger of bytes over a copy's bandwidth and arithmetic over the tensor cores' rate. The copy is
// measured in the same run; the rates are those of docs/performance.md. Operands take turns so that
// they come from memory, not from the L2 cache. Medians of rounds of back-to-back launches.
//
//   cuda_kernel_bench [SUBSTRING]      only the operations whose name has it
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "bench/device_rates.h"
#include "common/check.h"
#include "kernels/backend.h"
#include "kernels/float_formats.h"

namespace baleen::kernels {
namespace {

constexpr size_t kColdBytes = size_t{192} << 20;  // of operands in turn: several times the L2 cache
constexpr int kRounds = 15;

class Bench {
 public:
  explicit Bench(std::string wanted) : wanted_(std::move(wanted)) {
    auto backend = MakeCudaBackend(/*device=*/0);
    BALEEN_CHECK_MSG(backend.ok(), backend.status().ToString().c_str());
    gpu_ = *std::move(backend);
    const StepLimits limits = {.rows = 4096,
                               .expert_rows = 4096,
                               .experts = 32,
                               .experts_per_row = 8,
                               .expert_width = 2048,
                               .head_rows = 128};
    UseLimits(limits);
  }

  // Sparse attention chooses its regime from the limits.
  void UseLimits(StepLimits limits) {
    const size_t bytes = gpu_->ScratchBytes(limits);
    if (bytes > scratch_bytes_) scratch_ = gpu_->Allocate(scratch_bytes_ = bytes);
    BALEEN_CHECK_MSG(scratch_ != nullptr, "no memory for scratch");
    gpu_->UseScratch(limits, scratch_, scratch_bytes_);
    limits_ = limits;
  }
  const StepLimits& limits() const { return limits_; }

  // Microseconds of one launch; `launch(i)` uses the i-th set of operands.
  double Time(const std::function<void(int)>& launch, int repeats) {
    for (int i = 0; i < 3; ++i) launch(i);
    gpu_->Synchronize();
    std::vector<double> rounds;
    for (int round = 0; round < kRounds; ++round) {
      const auto begin = std::chrono::steady_clock::now();
      for (int i = 0; i < repeats; ++i) launch(i);
      gpu_->Synchronize();
      const std::chrono::duration<double, std::micro> took =
          std::chrono::steady_clock::now() - begin;
      rounds.push_back(took.count() / repeats);
    }
    std::nth_element(rounds.begin(), rounds.begin() + kRounds / 2, rounds.end());
    return rounds[kRounds / 2];
  }

  void Report(const std::string& name, double bytes, double flop, double rate,
              const std::function<void(int)>& launch, int repeats = 20) {
    if (name.find(wanted_) == std::string::npos) return;
    const double us = Time(launch, repeats);
    const double floor = std::max(bytes / bandwidth_, flop / rate) * 1e6;
    std::printf("%-44s %9.1f us  floor %9.1f  ratio %5.2f  %7.0f GB/s %7.0f TFLOP/s\n",
                name.c_str(), us, floor, us / floor, bytes / us * 1e-3, flop / us * 1e-6);
    std::fflush(stdout);
  }

  // Device memory with random bytes that are small finite numbers in every format used.
  template <typename T>
  T* Random(size_t count) {
    const size_t bytes = count * sizeof(T);
    void* p = gpu_->Allocate(bytes);
    BALEEN_CHECK_MSG(p != nullptr, "no memory");
    if (noise_.empty()) {
      std::mt19937 rng(1);
      noise_.resize(size_t{8} << 20);
      for (size_t i = 0; i < noise_.size(); i += 2) {
        const uint16_t v = F32ToBf16(std::normal_distribution<float>()(rng));
        noise_[i] = static_cast<uint8_t>(v & 0x3F);
        noise_[i + 1] = static_cast<uint8_t>((v >> 8) & 0xBF);
      }
    }
    for (size_t at = 0; at < bytes; at += noise_.size()) {
      gpu_->CopyIn(static_cast<std::byte*>(p) + at, noise_.data(),
                   std::min(noise_.size(), bytes - at));
    }
    gpu_->Synchronize();
    owned_.push_back(p);
    return static_cast<T*>(p);
  }
  template <typename T>
  T* Copy(const std::vector<T>& host) {
    T* p = Random<T>(host.size());
    gpu_->CopyIn(p, host.data(), host.size() * sizeof(T));
    gpu_->Synchronize();
    return p;
  }
  float* Ones(size_t count) { return Copy(std::vector<float>(count, 1.0f / 64)); }
  Matrix Rows(int rows, int cols, DType dtype = DType::kBf16) {
    return {Random<std::byte>(size_t(rows) * cols * DTypeBytes(dtype)), dtype, rows, cols, cols};
  }
  Quantized Fp8(int rows, int cols) {
    return {Random<uint8_t>(size_t(rows) * cols), Ones(size_t(rows) * (cols / 128)), rows, cols};
  }
  Weight Fp8Weight(int out, int in) {
    return {Random<uint8_t>(size_t(out) * in),
            DType::kF8E4M3,
            Ones(size_t((out + 127) / 128) * ((in + 127) / 128)),
            out,
            in,
            true};
  }
  // Memory is given back between operations: the card may be small.
  void Clear() {
    gpu_->Synchronize();
    for (void* p : owned_) gpu_->Free(p);
    owned_.clear();
  }

  void MeasureCopy() {
    bandwidth_ = baleen::MeasureCopy(*gpu_);
    std::printf("copy of rows: %.0f GB/s read and written\n", bandwidth_ * 1e-9);
  }

  Backend& gpu() { return *gpu_; }

 private:
  const std::string wanted_;
  std::unique_ptr<Backend> gpu_;
  StepLimits limits_;
  void* scratch_ = nullptr;
  size_t scratch_bytes_ = 0;
  double bandwidth_ = 1;
  std::vector<uint8_t> noise_;
  std::vector<void*> owned_;
};

void DenseFp8(Bench& b, const char* name, int out, int in) {
  const int sets = static_cast<int>(kColdBytes / (size_t(out) * in)) + 1;
  std::vector<Weight> weights;
  for (int i = 0; i < sets; ++i) weights.push_back(b.Fp8Weight(out, in));
  for (int rows : {1, 16, 64, 128, 4096}) {
    const Quantized x = b.Fp8(rows, in);
    const Matrix y = b.Rows(rows, out);
    b.Report(std::string(name) + " m " + std::to_string(rows),
             double(out) * in + double(rows) * (in + 2.0 * out), 2.0 * rows * out * in, kFp8Rate,
             [&](int i) {
               b.gpu().Linear({.x = {.dtype = DType::kBf16, .rows = rows, .cols = in},
                               .xq = x,
                               .w = weights[i % sets],
                               .y = y});
             });
  }
  b.Clear();
}

void DenseBf16(Bench& b, const char* name, int out, int in, DType y_dtype) {
  for (int rows : {1, 16, 128}) {
    const Matrix x = b.Rows(rows, in), y = b.Rows(rows, out, y_dtype);
    const Weight w = {b.Random<std::byte>(size_t(out) * in * 2), DType::kBf16, nullptr, out, in};
    b.Report(std::string(name) + " m " + std::to_string(rows), 2.0 * out * in,
             2.0 * rows * out * in, kBf16Rate,
             [&](int) { b.gpu().Linear({.x = x, .w = w, .y = y}); });
    b.Clear();
  }
}

void Heads(Bench& b, const char* name, int in, int out) {
  for (int rows : {1, 16, 128, 4096}) {
    const Matrix x = b.Rows(rows, 128 * in), y = b.Rows(rows, 128 * out);
    const void* w = b.Random<std::byte>(size_t{128} * in * out * 2);
    b.Report(std::string(name) + " rows " + std::to_string(rows),
             2.0 * 128 * in * out + 256.0 * rows * (in + out), 256.0 * rows * in * out, kBf16Rate,
             [&](int) {
               b.gpu().HeadLinear({.x = x,
                                   .heads = 128,
                                   .x_head_stride = in,
                                   .w = w,
                                   .w_dtype = DType::kBf16,
                                   .out = out,
                                   .in = in,
                                   .y = y});
             });
    b.Clear();
  }
}

// A decode rank's share: 32 of 256 experts; every row has one of its 8 experts here.
void RoutedExperts(Bench& b) {
  constexpr int kDim = 7168, kWidth = 2048, kExperts = 32, kTopk = 8;
  std::vector<Weight> gate_up, down;
  for (int e = 0; e < kExperts; ++e) {
    gate_up.push_back(b.Fp8Weight(2 * kWidth, kDim));
    down.push_back(b.Fp8Weight(kDim, kWidth));
  }
  for (int rows : {1, 8, 64, 512, 4096}) {
    std::mt19937 rng(rows);
    std::vector<int32_t> ids(size_t(rows) * kTopk, -1);
    std::vector<int> hit(kExperts, 0);
    for (int32_t& id : ids) ++hit[id = static_cast<int32_t>(rng() % kExperts)];
    const auto touched = double(kExperts - std::count(hit.begin(), hit.end(), 0));
    const double pairs = double(rows) * kTopk;
    const Quantized xq = b.Fp8(rows, kDim);
    const Matrix out = b.Rows(rows * kTopk, kDim);
    const int32_t* device_ids = b.Copy(ids);
    b.Report(
        "experts, 32 local, rows " + std::to_string(rows),
        touched * 3 * kDim * kWidth + pairs * (kDim * 3.0 + kWidth * 6.0),
        6.0 * pairs * kDim * kWidth, kFp8Rate,
        [&](int) {
          b.gpu().Experts({.x = {.dtype = DType::kBf16, .rows = rows, .cols = kDim},
                           .xq = xq,
                           .ids = device_ids,
                           .topk = kTopk,
                           .first_expert = 0,
                           .experts = kExperts,
                           .gate_up = gate_up.data(),
                           .down = down.data(),
                           .out = out});
        },
        10);
  }
  b.Clear();
}

// Rows over caches: `sequences` of `keys` tokens, `per_sequence` rows each at their end.
struct Context {
  Context(Bench& b, int sequences, int keys, int per_sequence) {
    layout = {.numerics = Numerics::kFp8, .layers = 1};
    const int pages = static_cast<int>(PagesFor(keys));
    cache = {b.Random<std::byte>(layout.PageBytes() * size_t(pages) * sequences),
             layout.PageBytes(), 0, layout};
    std::vector<int32_t> table(size_t(pages) * sequences), positions, ids;
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937(7));
    for (int s = 0; s < sequences; ++s) {
      for (int r = 0; r < per_sequence; ++r) {
        ids.push_back(s);
        positions.push_back(keys - per_sequence + r);
      }
    }
    count = static_cast<int>(ids.size());
    rows = {count, b.Copy(positions), b.Copy(ids), b.Copy(table), pages};
  }
  KvLayout layout;
  LayerCache cache;
  RowMap rows;
  int count = 0;
};

void Attention(Bench& b, int sequences, int keys, int per_sequence, const char* name) {
  const Context c(b, sequences, keys, per_sequence);
  const int topk = std::min(2048, keys);
  StepLimits limits = b.limits();
  limits.rows = std::max(128, c.count);
  b.UseLimits(limits);
  std::vector<int32_t> indices;
  std::mt19937 rng(3);
  for (int r = 0; r < c.count; ++r) {
    const int step = (keys - per_sequence) / topk;
    for (int i = 0; i < topk; ++i) indices.push_back(i * step + int(rng() % step));
  }
  const Matrix q = b.Rows(c.count, 128 * 512), rope = b.Rows(c.count, 128 * 192);
  const Matrix out = b.Rows(c.count, 128 * 512);
  const int32_t* list = b.Copy(indices);
  b.Report(
      std::string("sparse attention ") + name, c.count * (656.0 * topk + 128 * 512 * 4.0),
      2.0 * 128 * c.count * topk * (576.0 + 512), kBf16Rate,
      [&](int) {
        b.gpu().SparseAttention({.q = q,
                                 .q_rope = rope,
                                 .rope_head_stride = 192,
                                 .heads = 128,
                                 .scale = 0.07f,
                                 .indices = list,
                                 .topk = topk,
                                 .cache = c.cache,
                                 .rows = c.rows,
                                 .out = out});
      },
      10);
  b.Clear();
}

void Indexer(Bench& b, int sequences, int keys, int per_sequence, const char* name) {
  const Context c(b, sequences, keys, per_sequence);
  const Quantized q = b.Fp8(c.count, 64 * 128);
  const float* weights = b.Ones(size_t(c.count) * 64);
  float* logits = b.Random<float>(size_t(c.count) * keys);
  int32_t* indices = b.Random<int32_t>(size_t(c.count) * 2048);
  const double pairs = double(c.count) * keys;
  b.Report(
      std::string("index logits ") + name, 132.0 * sequences * keys + 4 * pairs,
      2.0 * pairs * 64 * 128, kFp8Rate,
      [&](int) {
        b.gpu().IndexerLogits({.q8 = q,
                               .weights = weights,
                               .heads = 64,
                               .cache = c.cache,
                               .rows = c.rows,
                               .logits = logits,
                               .logits_stride = keys});
      },
      10);
  b.Report(
      std::string("top-2048 ") + name, 4 * pairs, 0, 1,
      [&](int) {
        b.gpu().TopK({.logits = logits,
                      .logits_stride = keys,
                      .positions = c.rows.positions,
                      .rows = c.count,
                      .k = 2048,
                      .indices = indices});
      },
      10);
  b.Clear();
}

void Small(Bench& b) {
  for (int rows : {1, 128, 4096}) {
    const std::string m = " rows " + std::to_string(rows);
    const Matrix x = b.Rows(rows, 7168), residual = b.Rows(rows, 7168), out = b.Rows(rows, 7168);
    const Quantized q = b.Fp8(rows, 7168);
    const float* weight = b.Ones(7168);
    b.Report("add, norm, quantise 7168" + m, rows * 7168.0 * (2 * 4 + 1), 0, 1, [&](int) {
      b.gpu().AddRmsNorm({.x = x,
                          .residual = residual,
                          .residual_out = residual,
                          .weight = weight,
                          .out = out,
                          .quantized = q,
                          .eps = 1e-6f});
    });
    const float* logits = b.Ones(size_t(rows) * 256);
    const float* bias = b.Ones(256);
    int32_t* ids = b.Random<int32_t>(size_t(rows) * 8);
    float* chosen = b.Random<float>(size_t(rows) * 8);
    b.Report("gate" + m, rows * 256.0 * 4, 0, 1, [&](int) {
      b.gpu().Gate({.logits = logits,
                    .bias = bias,
                    .rows = rows,
                    .experts = 256,
                    .groups = 8,
                    .topk_groups = 4,
                    .topk = 8,
                    .normalize = true,
                    .scale = 2.5f,
                    .ids = ids,
                    .weights = chosen});
    });
    const Matrix pairs = b.Rows(rows * 8, 7168);
    const float* weights = b.Ones(size_t(rows) * 8);
    b.Report("combine" + m, rows * 7168.0 * 2 * 10, 0, 1, [&](int) {
      b.gpu().Combine({.expert_out = pairs, .weights = weights, .topk = 8, .shared = x, .y = out});
    });
    b.Clear();
  }
}

void Run(const std::string& wanted) {
  Bench b(wanted);
  b.MeasureCopy();
  DenseFp8(b, "q_a 1536x7168", 1536, 7168);
  DenseFp8(b, "q_b 24576x1536", 24576, 1536);
  DenseFp8(b, "index wq_b 8192x1536", 8192, 1536);
  DenseFp8(b, "o_proj 7168x16384", 7168, 16384);
  DenseFp8(b, "shared gate_up 4096x7168", 4096, 7168);
  DenseFp8(b, "shared down 7168x2048", 7168, 2048);
  DenseFp8(b, "dense gate_up 36864x7168", 36864, 7168);
  DenseBf16(b, "router 256x7168", 256, 7168, DType::kF32);
  DenseBf16(b, "head 129280x7168", 129280, 7168, DType::kF32);
  Heads(b, "absorb W_UK 128 x 128->512", 128, 512);
  Heads(b, "value W_UV 128 x 512->128", 512, 128);
  RoutedExperts(b);
  Attention(b, 1, 32768, 1, "decode bs 1");
  Attention(b, 8, 32768, 1, "decode bs 8");
  Attention(b, 32, 32768, 1, "decode bs 32");
  Attention(b, 128, 8192, 1, "decode bs 128");
  Attention(b, 1, 32768, 4096, "prefill 4096 at 32k");
  Indexer(b, 1, 32768, 1, "decode bs 1, 32k");
  Indexer(b, 1, 131072, 1, "decode bs 1, 128k");
  Indexer(b, 32, 32768, 1, "decode bs 32, 32k");
  Indexer(b, 128, 32768, 1, "decode bs 128, 32k");
  Indexer(b, 1, 32768, 4096, "prefill 4096 at 32k");
  Indexer(b, 1, 131072, 4096, "prefill 4096 at 128k");
  Small(b);
}

}  // namespace
}  // namespace baleen::kernels

int main(int argc, char** argv) { baleen::kernels::Run(argc > 1 ? argv[1] : ""); }
