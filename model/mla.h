#pragma once

#include "model/layer.h"

namespace baleen::model {

// Multi-head latent attention over the keys the indexer selects   (3.3 - 3.5): reads act.h, writes
// act.x and the rows' cache entries. Returns the selected keys or nullptr, as RunLayer.
const int32_t* Mla(const StepContext& step, const AttentionWeights& w,
                   const IndexerWeights& indexer, const kernels::LayerCache& cache);

}  // namespace baleen::model
