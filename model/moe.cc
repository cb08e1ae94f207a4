#include "model/moe.h"

#include "common/check.h"
#include "model/matrix_views.h"

namespace baleen::model {
namespace {

// expert_ids and expert_weights of every row
void ChooseExperts(const StepContext& step, const MoeWeights& w) {
  const ModelConfig& c = step.config;
  const auto& a = step.act.ffn;
  step.Linear(step.act.h, {}, w.gate, a.router_logits);
  step.backend.Gate({.logits = Floats(a.router_logits),
                     .bias = w.bias,
                     .rows = step.rows.rows,
                     .experts = c.n_routed_experts,
                     .groups = c.n_group,
                     .topk_groups = c.topk_group,
                     .topk = c.num_experts_per_tok,
                     .normalize = c.norm_topk_prob,
                     .scale = c.routed_scaling_factor,
                     .ids = a.expert_ids,
                     .weights = a.expert_weights,
                     .sequences = step.rows.sequences,
                     .empty_sequence = step.rows.empty_sequence});
}

}  // namespace

void Mlp(const StepContext& step, const MlpWeights& w) {
  const auto& a = step.act.ffn;
  const kernels::Matrix gate_up = Dense(a.gate_up, w.gate_up.out);
  const kernels::Matrix mid = Dense(a.mid, w.down.in);
  const kernels::Quantized mid8 = Dense(a.mid8, w.down.in);
  step.Linear(step.act.h, step.act.h8, w.gate_up, gate_up);
  step.backend.SiluMul({.x = gate_up, .out = mid, .quantized = mid8});
  step.Linear(mid, mid8, w.down, step.act.x);
}

void Moe(const StepContext& step, const MoeWeights& w) {
  const auto& a = step.act.ffn;
  const int topk = step.config.num_experts_per_tok;
  ChooseExperts(step, w);

  const kernels::Quantized h8 = step.config.fp8_experts ? step.act.h8 : kernels::Quantized{};
  const ExpertExchange::Received in = step.exchange.Dispatch(step.act.h, h8, a.expert_ids, topk);
  BALEEN_CHECK(int64_t{in.rows} * topk <= a.expert_out.rows);
  const kernels::Matrix out = FirstRows(a.expert_out, in.rows * topk);
  step.backend.Experts({.x = in.x,
                        .xq = in.xq,
                        .ids = in.ids,
                        .topk = topk,
                        .first_expert = step.shard.first_expert,
                        .experts = static_cast<int>(w.gate_up.size()),
                        .gate_up = w.gate_up.data(),
                        .down = w.down.data(),
                        .out = out});
  const kernels::Matrix routed = step.exchange.Collect(out);

  Mlp(step, w.shared);
  step.backend.Combine({.expert_out = routed,
                        .weights = a.expert_weights,
                        .topk = topk,
                        .shared = step.act.x,
                        .y = step.act.x});
}

}  // namespace baleen::model
