#pragma once

#include "router/api/json.h"
#include "router/cluster_view.h"
#include "router/model_info.h"

namespace baleen::router {

// Bodies of the endpoints that describe the server; pure.

Json ModelJson(const ModelInfo& model, const ClusterView& view);
Json WorkersJson(const ClusterView& view);
// What sglang's bench_serving reads after a run: internal_states with the accept length.
Json ServerInfoJson(const ModelInfo& model, const ClusterView& view);
Json ModelInfoJson(const ModelInfo& model, const ClusterView& view);

// Mean over the decode ranks that speculate; 0 if none.
double MeanAcceptLength(const ClusterView& view);

}  // namespace baleen::router
