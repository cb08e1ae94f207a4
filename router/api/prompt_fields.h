#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "router/api/client_request.h"
#include "router/api/json.h"
#include "router/cluster_view.h"
#include "router/dispatcher.h"
#include "router/model_info.h"

namespace baleen::router {

// A text's ids: begin of sentence is put in front unless it is already there or
// `add_bos` is false. InvalidArgument for text that is not UTF-8.
absl::StatusOr<TokenIds> EncodePrompt(const ModelInfo& model, absl::string_view text,
                                      bool add_bos = true);

// The same of a prompt to answer. InvalidArgument names `param`; a text that is too long for the
// model's context whatever its tokens are (context_length_exceeded) is refused before any work.
absl::StatusOr<TokenIds> PromptFromText(const ModelInfo& model, absl::string_view text,
                                        absl::string_view param, bool add_bos = true);

// Ids a client sent, as they are. InvalidArgument names `param` and the first one out of range.
absl::StatusOr<TokenIds> PromptFromIds(const ModelInfo& model, const Json& ids,
                                       absl::string_view param);
absl::StatusOr<TokenIds> PromptFromIds(const ModelInfo& model, std::vector<uint32_t> ids,
                                       absl::string_view param);

// A string, a list of strings, a list of ids or a list of lists of ids, into `request->prompts`
// and `prompt_field` (and `prompt_texts` with `echo`).
absl::Status ReadPrompts(const ModelInfo& model, const Json& value, absl::string_view param,
                         bool add_bos, ClientRequest* request);

// Fails unless `model` names the served one; absent is fine.
absl::Status CheckModel(const ModelInfo& model, const std::optional<std::string>& name);

// One dispatch a prompt, each with its max_new_tokens settled: what the client wants, if any decode
// group can hold that, else as many as fit into the groups that are ready, or into any if the
// prompt fits into none of those. InvalidArgument (context_length_exceeded) names `prompt_field`
// when a prompt leaves no room for one token in the cluster's context or in any decode group's page
// pool, or fits no prefill group's.
absl::StatusOr<std::vector<DispatchRequest>> ToDispatchRequests(const ModelInfo& model,
                                                                const ClusterView& view,
                                                                const ClientRequest& request,
                                                                TimePoint received);

inline constexpr size_t kMaxPrompts = 1024;

}  // namespace baleen::router
