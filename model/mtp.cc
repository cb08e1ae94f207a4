#include "model/mtp.h"

#include "model/matrix_views.h"

namespace baleen::model {
namespace {

void Norm(const StepContext& step, const kernels::Matrix& x, const float* weight,
          const kernels::Matrix& out) {
  step.backend.AddRmsNorm({.x = x, .weight = weight, .out = out, .eps = step.config.rms_norm_eps});
}

}  // namespace

void RunMtpModule(const StepContext& step, const MtpWeights& w, const kernels::Matrix& embedding,
                  const int32_t* tokens, const kernels::Matrix& hidden, const int32_t* hidden_rows,
                  const kernels::LayerCache& cache) {
  const Activations& a = step.act;
  const int dim = step.config.hidden_size;
  step.backend.Embed({.table = embedding, .ids = tokens, .out = a.mtp.embedding});
  step.backend.GatherRows({.x = hidden, .index = hidden_rows, .out = a.mtp.hidden});

  // x = [norm(embedding) | norm(hidden)] W_eh: the embedding stands first.
  Norm(step, a.mtp.embedding, w.embedding_norm, ColumnRange(a.mtp.joined, 0, dim));
  Norm(step, a.mtp.hidden, w.hidden_norm, ColumnRange(a.mtp.joined, dim, dim));
  step.Linear(a.mtp.joined, {}, w.eh_proj, a.x);

  ResidualStream stream = {.x = a.x};
  RunLayer(step, w.layer, cache, stream);
  FinalNorm(step, w.norm, stream, a.mtp_hidden);
}

}  // namespace baleen::model
