#include "model/layer.h"

#include "model/mla.h"
#include "model/moe.h"

namespace baleen::model {

void AddNorm(const StepContext& step, const float* weight, ResidualStream& stream) {
  const Activations& a = step.act;
  step.backend.AddRmsNorm({.x = stream.x,
                           .residual = stream.residual,
                           .residual_out = a.residual,
                           .weight = weight,
                           .out = a.h,
                           .quantized = a.h8,
                           .eps = step.config.rms_norm_eps});
  stream = {.x = a.x, .residual = a.residual};
}

void FinalNorm(const StepContext& step, const float* weight, const ResidualStream& stream,
               const kernels::Matrix& out) {
  step.backend.AddRmsNorm({.x = stream.x,
                           .residual = stream.residual,
                           .weight = weight,
                           .out = out,
                           .eps = step.config.rms_norm_eps});
}

const int32_t* RunLayer(const StepContext& step, const LayerWeights& w,
                        const kernels::LayerCache& cache, ResidualStream& stream) {
  AddNorm(step, w.input_norm, stream);
  const int32_t* selected = Mla(step, w.attention, w.indexer, cache);

  AddNorm(step, w.post_attention_norm, stream);
  if (w.is_moe) {
    Moe(step, w.moe);
  } else {
    Mlp(step, w.mlp);
  }
  return selected;
}

}  // namespace baleen::model
