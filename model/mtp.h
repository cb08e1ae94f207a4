#pragma once

#include "model/layer.h"

namespace baleen::model {

// The multi-token-prediction module   (3.8): one decoder layer over the embedding of the token at
// each row's position + 1 and the hidden state at its position. Writes the rows' cache entries and
// act.mtp_hidden, which the head turns into logits for position + 2.
//
// `hidden` holds normalised hidden states (the final norm's, or mtp_hidden of the draft before);
// row r takes hidden_rows[r] of them. The embedding at position 0 is not zeroed.
void RunMtpModule(const StepContext& step, const MtpWeights& w, const kernels::Matrix& embedding,
                  const int32_t* tokens, const kernels::Matrix& hidden, const int32_t* hidden_rows,
                  const kernels::LayerCache& cache);

}  // namespace baleen::model
