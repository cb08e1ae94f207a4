#include "bench/floor_backend.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "bench/device_rates.h"

namespace baleen {
namespace {

using kernels::Matrix;
using kernels::Quantized;
using kernels::Weight;

double Bytes(const Matrix& m) {
  return m.data == nullptr ? 0 : double(m.rows) * m.cols * double(DTypeBytes(m.dtype));
}
double Bytes(const Quantized& q) {
  return q.data == nullptr ? 0 : double(q.rows) * q.cols * (1 + 4.0 / 128);
}
double Bytes(const Weight& w) { return double(w.out) * w.in * double(DTypeBytes(w.dtype)); }

}  // namespace

void FloorBackend::StartCounting(const StepKeys& keys) {
  keys_ = keys;
  floors_.clear();
  counting_ = true;
}

std::vector<OpFloor> FloorBackend::StopCounting() {
  counting_ = false;
  std::sort(floors_.begin(), floors_.end(),
            [](const OpFloor& a, const OpFloor& b) { return a.seconds > b.seconds; });
  return std::move(floors_);
}

void FloorBackend::Count(absl::string_view op, double bytes, double flop, double rate) {
  if (!counting_) return;
  auto at = std::find_if(floors_.begin(), floors_.end(), [&](auto& f) { return f.op == op; });
  if (at == floors_.end()) at = floors_.insert(at, {.op = std::string(op)});
  ++at->calls;
  at->seconds += std::max(bytes / bandwidth_, rate > 0 ? flop / rate : 0);
}

void FloorBackend::Embed(const kernels::EmbedParams& p) {
  Count("Embed", 2 * Bytes(p.out));
  inner_.Embed(p);
}

void FloorBackend::AddRmsNorm(const kernels::AddRmsNormParams& p) {
  Count("AddRmsNorm",
        Bytes(p.x) + Bytes(p.residual) + Bytes(p.residual_out) + Bytes(p.out) + Bytes(p.quantized));
  inner_.AddRmsNorm(p);
}

void FloorBackend::Quantize(const kernels::QuantizeParams& p) {
  Count("Quantize", Bytes(p.x) + Bytes(p.out));
  inner_.Quantize(p);
}

void FloorBackend::Linear(const kernels::LinearParams& p) {
  const bool fp8 = p.w.fp8_input && p.xq.data != nullptr;
  std::string op;
  if (counting_) op = absl::StrCat("Linear ", p.w.out, "x", p.w.in);
  Count(op, Bytes(p.w) + (fp8 ? Bytes(p.xq) : Bytes(p.x)) + Bytes(p.y),
        2.0 * p.y.rows * p.w.out * p.w.in, fp8 ? kFp8Rate : kBf16Rate);
  inner_.Linear(p);
}

void FloorBackend::Rope(const kernels::RopeParams& p) {
  Count("Rope", 2.0 * p.x.rows * p.heads * p.dims * double(DTypeBytes(p.x.dtype)));
  inner_.Rope(p);
}

void FloorBackend::LayerNorm(const kernels::LayerNormParams& p) {
  Count("LayerNorm", Bytes(p.x) + Bytes(p.out));
  inner_.LayerNorm(p);
}

void FloorBackend::Hadamard(const kernels::HadamardParams& p) {
  Count("Hadamard", 2 * Bytes(p.x));
  inner_.Hadamard(p);
}

void FloorBackend::StoreLatent(const kernels::StoreLatentParams& p) {
  const double stored = double(p.rows.rows) * double(p.cache.layout.LatentRowBytes());
  Count("StoreLatent", Bytes(p.latent) + Bytes(p.rope) + stored);
  inner_.StoreLatent(p);
}

void FloorBackend::StoreIndexKeys(const kernels::StoreIndexKeysParams& p) {
  const KvLayout& layout = p.cache.layout;
  const double stored =
      double(p.rows.rows) * double(layout.IndexKeyBytes() + layout.IndexScaleBytes());
  Count("StoreIndexKeys", Bytes(p.keys) + stored);
  inner_.StoreIndexKeys(p);
}

void FloorBackend::ScaleIndexWeights(const kernels::ScaleIndexWeightsParams& p) {
  Count("ScaleIndexWeights", 12.0 * p.rows * p.heads);
  inner_.ScaleIndexWeights(p);
}

void FloorBackend::IndexerLogits(const kernels::IndexerLogitsParams& p) {
  const KvLayout& layout = p.cache.layout;
  const double part = Part(p.rows.rows);
  const double keys = double(layout.IndexKeyBytes() + layout.IndexScaleBytes()) * keys_.stored;
  Count("IndexerLogits", part * (keys + 4 * keys_.seen) + Bytes(p.q) + Bytes(p.q8),
        2.0 * part * keys_.seen * p.heads * layout.index_dim,
        p.q8.data != nullptr ? kFp8Rate : kBf16Rate);
  inner_.IndexerLogits(p);
}

void FloorBackend::TopK(const kernels::TopKParams& p) {
  Count("TopK", Part(p.rows) * 4 * keys_.seen + 4.0 * p.rows * p.k);
  inner_.TopK(p);
}

void FloorBackend::HeadLinear(const kernels::HeadLinearParams& p) {
  const double rows = double(p.y.rows) * p.heads;
  const double activations = rows * (p.in + p.out) * double(DTypeBytes(p.y.dtype));
  Count("HeadLinear", double(p.heads) * p.in * p.out * double(DTypeBytes(p.w_dtype)) + activations,
        2.0 * rows * p.in * p.out, kBf16Rate);
  inner_.HeadLinear(p);
}

// Rows of one sequence may share the keys they read.
void FloorBackend::SparseAttention(const kernels::SparseAttentionParams& p) {
  const KvLayout& layout = p.cache.layout;
  const double keys = p.indices != nullptr ? keys_.selected : keys_.seen;
  const double read = std::min(keys, keys_.stored) * double(layout.LatentRowBytes());
  const double q_rope =
      double(p.rows.rows) * p.heads * layout.rope * double(DTypeBytes(p.q_rope.dtype));
  Count("SparseAttention", read + Bytes(p.q) + q_rope + Bytes(p.out),
        2.0 * p.heads * keys * (2.0 * layout.kv_lora + layout.rope), kBf16Rate);
  inner_.SparseAttention(p);
}

void FloorBackend::Gate(const kernels::GateParams& p) {
  Count("Gate", p.rows * (4.0 * p.experts + 8.0 * p.topk));
  inner_.Gate(p);
}

void FloorBackend::SiluMul(const kernels::SiluMulParams& p) {
  Count("SiluMul", Bytes(p.x) + (p.quantized.data != nullptr ? Bytes(p.quantized) : Bytes(p.out)));
  inner_.SiluMul(p);
}

void FloorBackend::Experts(const kernels::ExpertsParams& p) {
  if (p.experts > 0 && p.x.rows > 0) {
    const double pairs = double(p.x.rows) * p.topk;
    const double touched = p.experts * (1 - std::pow(1 - 1.0 / p.experts, pairs));
    const double dim = p.out.cols;
    const double width = p.down[0].in;
    const bool fp8 = p.gate_up[0].fp8_input && p.xq.data != nullptr;
    const double rows = pairs * (dim * 3 + width * 6);  // fp8 in, bf16 out; bf16 and fp8 between
    Count("Experts", touched * (Bytes(p.gate_up[0]) + Bytes(p.down[0])) + rows,
          6 * pairs * dim * width, fp8 ? kFp8Rate : kBf16Rate);
  }
  inner_.Experts(p);
}

void FloorBackend::Combine(const kernels::CombineParams& p) {
  Count("Combine", (p.topk + 1.0) * Bytes(p.y) + Bytes(p.shared));
  inner_.Combine(p);
}

void FloorBackend::GatherRows(const kernels::GatherRowsParams& p) {
  Count("GatherRows", 2 * Bytes(p.out));
  inner_.GatherRows(p);
}

void FloorBackend::Concat(const kernels::ConcatParams& p) {
  Count("Concat", 2 * Bytes(p.out));
  inner_.Concat(p);
}

void FloorBackend::Sample(const kernels::SampleParams& p) {
  Count("Sample", Bytes(p.logits));
  inner_.Sample(p);
}

}  // namespace baleen
