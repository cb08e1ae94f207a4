#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "router/api/client_request.h"
#include "router/api/json.h"
#include "router/model_info.h"

namespace baleen::router {

// Bodies of the HTTP endpoints (and of the gRPC Chat call) into checked, tokenised requests.
// InvalidArgument names the field; NotFound: unknown model. Fields nobody knows are listed in
// `unknown_fields`, and ignored. Pure; time linear in the body.

// POST /v1/chat/completions.
absl::StatusOr<ClientRequest> ParseChatRequest(const ModelInfo& model, const Json& body);

// POST /v1/completions.
absl::StatusOr<ClientRequest> ParseCompletionsRequest(const ModelInfo& model, const Json& body);

// POST /generate, SGLang's own endpoint. `rid` (one for all or one a prompt) is what /abort_request
// takes. Fields of SGLang's that would change the answer and are not offered are errors.
struct GenerateRequest {
  ClientRequest request;
  bool batch = false;  // a list came in, so a list goes out
};
absl::StatusOr<GenerateRequest> ParseGenerateRequest(const ModelInfo& model, const Json& body);

// POST /tokenize: a prompt, or messages exactly as chat takes them.
absl::StatusOr<TokenIds> ParseTokenizeRequest(const ModelInfo& model, const Json& body);

// POST /detokenize: the text of "tokens".
absl::StatusOr<std::string> ParseDetokenizeRequest(const ModelInfo& model, const Json& body);

}  // namespace baleen::router
