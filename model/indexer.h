#pragma once

#include "model/layer.h"

namespace baleen::model {

// The lightning indexer   (3.4).

// Writes the rows' index keys to the cache, from act.h. Done for every row, also where nothing is
// selected yet: later rows will score these keys.
void StoreIndexKeys(const StepContext& step, const IndexerWeights& w,
                    const kernels::LayerCache& cache);

// The index_topk best-scored keys of each row, [rows, index_topk], from act.h and
// act.attention.q_latent. Rows with fewer keys get all of them and -1.
const int32_t* SelectKeys(const StepContext& step, const IndexerWeights& w,
                          const kernels::LayerCache& cache);

// How many rows from `first` on are scored together: the most whose scores, each row as wide as
// the longest, fit in `score_count`; at least one. `stride` becomes that width.
int ScoreGroup(std::span<const int32_t> positions, int first, int64_t score_count, int64_t* stride);

}  // namespace baleen::model
