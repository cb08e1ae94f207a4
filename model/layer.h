#pragma once

#include <span>

#include "kernels/backend.h"
#include "model/activations.h"
#include "model/config.h"
#include "model/expert_exchange.h"
#include "model/weights.h"

namespace baleen::model {

// One step as its layers see it: what is the same for all of them.
struct StepContext {
  kernels::Backend& backend;
  const ModelConfig& config;
  const Shard& shard;
  ExpertExchange& exchange;
  const float* rope_cos;  // [positions, rope / 2], backend's memory
  const float* rope_sin;
  float attention_scale;
  bool fp8;  // Numerics::kFp8

  Activations act;  // cut to the step's rows
  kernels::RowMap rows;
  std::span<const int32_t> positions;  // [rows], host; empty: each row counts as having `keys`
  int keys;                            // at least as many as the row with the most has

  // y = x W^T; xq is x in fp8, which kFp8 multiplies where the checkpoint's weight is fp8.
  void Linear(const kernels::Matrix& x, const kernels::Quantized& xq, const kernels::Weight& w,
              const kernels::Matrix& y) const {
    backend.Linear({.x = x, .xq = w.fp8_input ? xq : kernels::Quantized{}, .w = w, .y = y});
  }
};

// The residual stream, x + residual, between two parts of a layer. `residual` is unset before the
// first layer of a process.
struct ResidualStream {
  kernels::Matrix x;
  kernels::Matrix residual;
};

// h = norm(x + residual); residual = x + residual; afterwards x is the next part's output   (3.1)
void AddNorm(const StepContext& step, const float* weight, ResidualStream& stream);

// out = norm(x + residual), the end of the stream: final norm and the MTP module's.
void FinalNorm(const StepContext& step, const float* weight, const ResidualStream& stream,
               const kernels::Matrix& out);

// One decoder layer   (3.1). Returns the keys it attended to, [rows, index_topk], or nullptr for
// all; valid until the next layer's feed-forward part.
const int32_t* RunLayer(const StepContext& step, const LayerWeights& w,
                        const kernels::LayerCache& cache, ResidualStream& stream);

}  // namespace baleen::model
