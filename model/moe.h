#pragma once

#include "model/layer.h"

namespace baleen::model {

// x = down(silu(gate(h)) * up(h)): a dense layer's feed-forward part, or the shared expert   (3.6)
void Mlp(const StepContext& step, const MlpWeights& w);

// x = sum over the chosen experts of weight * expert(h), plus shared(h)   (3.7). The experts may be
// in other processes; called by all of them together, also with zero rows.
void Moe(const StepContext& step, const MoeWeights& w);

}  // namespace baleen::model
