#pragma once

#include "router/api/json.h"
#include "router/cluster_view.h"
#include "router/model_info.h"

namespace baleen::router {

// Bodies of the endpoints that describe the server; pure.

Json ModelJson(const ModelInfo& model, const ClusterView& view);
Json WorkersJson(const ClusterView& view);
// What SGLang's benchmarks read: tokenizer_path, and internal_states with the mean accept length of
// the decode ranks that speculate (0 if none), of the cluster and of each entry of "prefill" and
// "decode", by which a reader replaces the whole. A role without groups has no key.
Json ServerInfoJson(const ModelInfo& model, const ClusterView& view);
Json ModelInfoJson(const ModelInfo& model, const ClusterView& view);

}  // namespace baleen::router
