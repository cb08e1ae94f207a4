// The operations of a layer at the tiny model's sizes, with GFLOP/s or GB/s, beside the bare
// products of the same shapes: ours (Product) and OpenBLAS (OpenBlas). Decision 0003 has the story.
//
//   kernel_bench [--benchmark_filter=REGEX]      rows are the /m of each name; two threads
#include <benchmark/benchmark.h>
#include <cblas.h>

#include <cmath>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/simd.h"
#include "kernels/float_formats.h"

namespace baleen::kernels {
namespace {

constexpr int kThreads = 2;
constexpr int kHidden = 256;
constexpr int kHeads = 4;
constexpr int kLora = 512;
constexpr int kRope = 64;
constexpr int kIndexHeads = 8;
constexpr int kIndexDim = 128;
constexpr int kTopK = 256;
constexpr int kExperts = 16;
constexpr int kExpertsPerToken = 4;
constexpr int kWidth = 128;

std::vector<float> RandomFloats(size_t n) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> v(n);
  for (float& x : v) x = normal(rng);
  return v;
}

// Owned activations.
struct Rows {
  Rows(int rows, int cols, DType dtype = DType::kF32) : bytes(size_t(rows) * cols * 4) {
    view = {bytes.data(), dtype, rows, cols, cols};
    const std::vector<float> v = RandomFloats(size_t(rows) * cols);
    for (size_t i = 0; i < v.size(); ++i) {
      if (dtype == DType::kF32) {
        static_cast<float*>(view.data)[i] = v[i];
      } else {
        static_cast<uint16_t*>(view.data)[i] = F32ToBf16(v[i]);
      }
    }
  }
  std::vector<uint8_t> bytes;
  Matrix view;
};

// One sequence of `length` cached tokens; the step's rows are its last `rows`.
struct Context {
  Context(Backend& backend, Numerics numerics, int length, int rows) {
    const KvLayout layout{numerics, 1, kLora, kRope, kIndexDim};
    pool.resize(PagesFor(length) * layout.PageBytes());
    table.resize(PagesFor(length));
    std::iota(table.begin(), table.end(), 0);
    cache = {pool.data(), layout.PageBytes(), 0, layout};
    Use(0, length);
    const DType dtype = ActivationDType(numerics);
    backend.StoreLatent(
        {Rows(length, kLora, dtype).view, Rows(length, kRope, dtype).view, cache, map});
    backend.StoreIndexKeys({Rows(length, kIndexDim, dtype).view, cache, map});
    Use(length - rows, length);
  }
  void Use(int begin, int end) {
    positions.resize(end - begin);
    std::iota(positions.begin(), positions.end(), begin);
    sequences.assign(end - begin, 0);
    map = {end - begin, positions.data(), sequences.data(), table.data(), int(table.size())};
  }
  int64_t VisibleKeys(int most) const {
    int64_t keys = 0;
    for (int32_t p : positions) keys += std::min(p + 1, most);
    return keys;
  }

  std::vector<std::byte> pool;
  std::vector<int32_t> table, positions, sequences;
  LayerCache cache;
  RowMap map;
};

void ReportFlops(benchmark::State& state, double multiply_adds) {
  state.counters["GFLOP/s"] = benchmark::Counter(2e-9 * multiply_adds * double(state.iterations()),
                                                 benchmark::Counter::kIsRate);
}
void ReportBytes(benchmark::State& state, double bytes) {
  state.counters["GB/s"] =
      benchmark::Counter(1e-9 * bytes * double(state.iterations()), benchmark::Counter::kIsRate);
}

// Arguments: out, in, m.
void ProductShapes(benchmark::internal::Benchmark* b) {
  for (const auto& [out, in] : {std::pair{128, 256},
                                {768, 128},
                                {576, 256},
                                {256, 512},
                                {768, 256},
                                {256, 128},
                                {512, 128},
                                {4096, 256}}) {
    for (int m : {1, 4, 32, 512, 2048}) b->Args({out, in, m});
  }
  b->UseRealTime();
}

void BM_Linear(benchmark::State& state, DType dtype) {
  const int out = int(state.range(0)), in = int(state.range(1)), m = int(state.range(2));
  const std::unique_ptr<Backend> backend = MakeCpuBackend(kThreads);
  const Rows x(m, in, dtype), y(m, out, dtype);
  const std::vector<float> w = RandomFloats(size_t(out) * in);
  for (auto _ : state) {
    backend->Linear({x.view, {}, {w.data(), DType::kF32, nullptr, out, in}, y.view});
  }
  ReportFlops(state, double(m) * out * in);
}
BENCHMARK_CAPTURE(BM_Linear, f32, DType::kF32)->Apply(ProductShapes);
BENCHMARK_CAPTURE(BM_Linear, bf16, DType::kBf16)->Apply(ProductShapes);

// One thread.
void BM_Product(benchmark::State& state) {
  const int out = int(state.range(0)), in = int(state.range(1)), m = int(state.range(2));
  const std::vector<float> x = RandomFloats(size_t(m) * in), w = RandomFloats(size_t(out) * in);
  std::vector<float> y(size_t(m) * out);
  for (auto _ : state) {
    simd::MultiplyTransposed(x.data(), in, m, w.data(), in, out, in, y.data(), out);
  }
  ReportFlops(state, double(m) * out * in);
}
BENCHMARK(BM_Product)->Apply(ProductShapes);

void OpenBlas(benchmark::State& state, int threads) {
  const int out = int(state.range(0)), in = int(state.range(1)), m = int(state.range(2));
  openblas_set_num_threads(threads);
  const std::vector<float> x = RandomFloats(size_t(m) * in), w = RandomFloats(size_t(out) * in);
  std::vector<float> y(size_t(m) * out);
  for (auto _ : state) {
    if (m == 1) {
      cblas_sgemv(CblasRowMajor, CblasNoTrans, out, in, 1, w.data(), in, x.data(), 1, 0, y.data(),
                  1);
    } else {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, out, in, 1, x.data(), in, w.data(),
                  in, 0, y.data(), out);
    }
  }
  ReportFlops(state, double(m) * out * in);
}
void BM_OpenBlas(benchmark::State& state) { OpenBlas(state, 1); }
void BM_OpenBlasThreads(benchmark::State& state) { OpenBlas(state, kThreads); }
BENCHMARK(BM_OpenBlas)->Apply(ProductShapes);
BENCHMARK(BM_OpenBlasThreads)->Apply(ProductShapes);

// Arguments: context, rows (the last ones of it).
void ContextShapes(benchmark::internal::Benchmark* b) {
  for (const auto& [length, rows] :
       {std::pair{256, 1}, {2048, 1}, {8192, 1}, {2048, 4}, {2048, 2048}}) {
    b->Args({length, rows});
  }
  b->UseRealTime();
}

void BM_IndexerLogits(benchmark::State& state, Numerics numerics) {
  const int length = int(state.range(0)), rows = int(state.range(1));
  const std::unique_ptr<Backend> backend = MakeCpuBackend(kThreads);
  const Context context(*backend, numerics, length, rows);
  const Rows q(rows, kIndexHeads * kIndexDim);
  std::vector<uint8_t> q8(size_t(rows) * q.view.cols);
  std::vector<float> scales(q8.size() / 128), weights = RandomFloats(size_t(rows) * kIndexHeads);
  std::vector<float> logits(size_t(rows) * length);
  IndexerLogitsParams p{.weights = weights.data(),
                        .heads = kIndexHeads,
                        .cache = context.cache,
                        .rows = context.map,
                        .logits = logits.data(),
                        .logits_stride = length};
  if (numerics == Numerics::kExact) {
    p.q = q.view;
  } else {
    p.q8 = {q8.data(), scales.data(), rows, q.view.cols};
    backend->Quantize({q.view, p.q8});
  }
  for (auto _ : state) backend->IndexerLogits(p);
  ReportFlops(state, double(context.VisibleKeys(length)) * kIndexHeads * kIndexDim);
}
BENCHMARK_CAPTURE(BM_IndexerLogits, exact, Numerics::kExact)->Apply(ContextShapes);
BENCHMARK_CAPTURE(BM_IndexerLogits, fp8, Numerics::kFp8)->Apply(ContextShapes);

std::vector<int32_t> Selected(Backend& backend, const Context& context, int length) {
  const int rows = context.map.rows;
  const std::vector<float> logits = RandomFloats(size_t(rows) * length);
  std::vector<int32_t> indices(size_t(rows) * kTopK);
  backend.TopK({logits.data(), length, context.positions.data(), rows, kTopK, indices.data()});
  return indices;
}

void BM_TopK(benchmark::State& state) {
  const int length = int(state.range(0)), rows = int(state.range(1));
  const std::unique_ptr<Backend> backend = MakeCpuBackend(kThreads);
  const Context context(*backend, Numerics::kExact, length, rows);
  const std::vector<float> logits = RandomFloats(size_t(rows) * length);
  std::vector<int32_t> indices(size_t(rows) * kTopK);
  for (auto _ : state) {
    backend->TopK({logits.data(), length, context.positions.data(), rows, kTopK, indices.data()});
  }
  ReportBytes(state, 4.0 * double(context.VisibleKeys(length)));
}
BENCHMARK(BM_TopK)->Apply(ContextShapes);

void Attention(benchmark::State& state, Numerics numerics, bool sparse) {
  const int length = int(state.range(0)), rows = int(state.range(1));
  const std::unique_ptr<Backend> backend = MakeCpuBackend(kThreads);
  const Context context(*backend, numerics, length, rows);
  const DType dtype = ActivationDType(numerics);
  const Rows q(rows, kHeads * kLora, dtype), q_rope(rows, kHeads * 192, dtype);
  const Rows out(rows, kHeads * kLora, dtype);
  const std::vector<int32_t> indices = Selected(*backend, context, length);
  SparseAttentionParams p{.q = q.view,
                          .q_rope = q_rope.view,
                          .rope_head_stride = 192,
                          .heads = kHeads,
                          .scale = 0.1f,
                          .cache = context.cache,
                          .rows = context.map,
                          .out = out.view};
  if (sparse) {
    p.indices = indices.data();
    p.topk = kTopK;
  }
  for (auto _ : state) backend->SparseAttention(p);
  ReportFlops(state,
              double(context.VisibleKeys(sparse ? kTopK : length)) * kHeads * (2 * kLora + kRope));
}
void BM_SparseAttention(benchmark::State& state, Numerics numerics) {
  Attention(state, numerics, true);
}
void BM_DenseAttention(benchmark::State& state, Numerics numerics) {
  Attention(state, numerics, false);
}
BENCHMARK_CAPTURE(BM_SparseAttention, exact, Numerics::kExact)->Apply(ContextShapes);
BENCHMARK_CAPTURE(BM_SparseAttention, fp8, Numerics::kFp8)->Apply(ContextShapes);
BENCHMARK_CAPTURE(BM_DenseAttention, exact, Numerics::kExact)->Apply(ContextShapes);

void BM_HeadLinear(benchmark::State& state) {
  const int m = int(state.range(0));
  const std::unique_ptr<Backend> backend = MakeCpuBackend(kThreads);
  const Rows x(m, kHeads * 192), y(m, kHeads * kLora);
  const std::vector<float> w = RandomFloats(size_t(kHeads) * kLora * 128);
  for (auto _ : state) {
    backend->HeadLinear({x.view, kHeads, 192, w.data(), DType::kF32, kLora, 128, y.view});
  }
  ReportFlops(state, double(m) * kHeads * kLora * 128);
}
BENCHMARK(BM_HeadLinear)->Arg(1)->Arg(4)->Arg(32)->Arg(2048)->UseRealTime();

void BM_Experts(benchmark::State& state) {
  const int m = int(state.range(0));
  const std::unique_ptr<Backend> backend = MakeCpuBackend(kThreads);
  const Rows x(m, kHidden), out(m * kExpertsPerToken, kHidden);
  const size_t up_size = size_t(2) * kWidth * kHidden, down_size = size_t(kHidden) * kWidth;
  const std::vector<float> up = RandomFloats(kExperts * up_size);
  const std::vector<float> down = RandomFloats(kExperts * down_size);
  std::vector<Weight> up_weights, down_weights;
  for (int e = 0; e < kExperts; ++e) {
    up_weights.push_back({&up[e * up_size], DType::kF32, nullptr, 2 * kWidth, kHidden});
    down_weights.push_back({&down[e * down_size], DType::kF32, nullptr, kHidden, kWidth});
  }
  std::mt19937 rng(3);
  std::vector<int32_t> ids;
  for (int r = 0; r < m; ++r) {
    const int first = int(rng() % kExperts);
    for (int j = 0; j < kExpertsPerToken; ++j) ids.push_back((first + 3 * j) % kExperts);
  }
  for (auto _ : state) {
    backend->Experts({x.view,
                      {},
                      ids.data(),
                      kExpertsPerToken,
                      0,
                      kExperts,
                      up_weights.data(),
                      down_weights.data(),
                      out.view});
  }
  ReportFlops(state, double(m) * kExpertsPerToken * double(up_size + down_size));
}
BENCHMARK(BM_Experts)->Arg(1)->Arg(4)->Arg(32)->Arg(2048)->UseRealTime();

void BM_AddRmsNorm(benchmark::State& state, DType dtype) {
  const int m = int(state.range(0));
  const std::unique_ptr<Backend> backend = MakeCpuBackend(kThreads);
  const Rows x(m, kHidden, dtype), residual(m, kHidden), out(m, kHidden, dtype);
  const std::vector<float> weight = RandomFloats(kHidden);
  for (auto _ : state) {
    backend->AddRmsNorm({x.view, residual.view, residual.view, weight.data(), out.view, {}, 1e-6f});
  }
  ReportBytes(state, double(m) * kHidden * (8 + 2 * double(DTypeBytes(dtype))));
}
BENCHMARK_CAPTURE(BM_AddRmsNorm, f32, DType::kF32)->Arg(1)->Arg(2048)->UseRealTime();
BENCHMARK_CAPTURE(BM_AddRmsNorm, bf16, DType::kBf16)->Arg(1)->Arg(2048)->UseRealTime();

void BM_Quantize(benchmark::State& state) {
  const int m = int(state.range(0));
  const std::unique_ptr<Backend> backend = MakeCpuBackend(kThreads);
  const Rows x(m, kHidden, DType::kBf16);
  std::vector<uint8_t> q(size_t(m) * kHidden);
  std::vector<float> scales(q.size() / 128);
  for (auto _ : state) backend->Quantize({x.view, {q.data(), scales.data(), m, kHidden}});
  ReportBytes(state, double(m) * kHidden * 3);
}
BENCHMARK(BM_Quantize)->Arg(1)->Arg(2048)->UseRealTime();

void BM_HadamardAndRope(benchmark::State& state) {
  const int m = int(state.range(0));
  const std::unique_ptr<Backend> backend = MakeCpuBackend(kThreads);
  const Rows x(m, kIndexHeads * kIndexDim);
  const std::vector<float> cos(size_t(m) * kRope, 0.6f), sin(size_t(m) * kRope, 0.8f);
  std::vector<int32_t> positions(m);
  std::iota(positions.begin(), positions.end(), 0);
  for (auto _ : state) {
    backend->Rope({x.view, kIndexHeads, kIndexDim, 0, kRope, false, positions.data(), cos.data(),
                   sin.data()});
    backend->Hadamard({x.view});
  }
  ReportBytes(state, 16.0 * m * x.view.cols);
}
BENCHMARK(BM_HadamardAndRope)->Arg(1)->Arg(2048)->UseRealTime();

void BM_Gate(benchmark::State& state) {
  const int m = int(state.range(0));
  const std::unique_ptr<Backend> backend = MakeCpuBackend(kThreads);
  const std::vector<float> logits = RandomFloats(size_t(m) * kExperts), bias(kExperts);
  std::vector<int32_t> ids(size_t(m) * kExpertsPerToken);
  std::vector<float> weights(ids.size());
  for (auto _ : state) {
    backend->Gate({logits.data(), bias.data(), m, kExperts, 4, 2, kExpertsPerToken, true, 2.5f,
                   ids.data(), weights.data()});
  }
}
BENCHMARK(BM_Gate)->Arg(1)->Arg(2048)->UseRealTime();

}  // namespace
}  // namespace baleen::kernels

BENCHMARK_MAIN();
