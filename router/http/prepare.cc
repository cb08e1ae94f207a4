#include "common/status_macros.h"
#include "router/api/requests.h"
#include "router/http/generation.h"

namespace baleen::router {

absl::StatusOr<PreparedGeneration> PrepareChat(const ModelInfo& model, absl::string_view body) {
  BALEEN_ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  BALEEN_ASSIGN_OR_RETURN(ClientRequest request, ParseChatRequest(model, json));
  return PreparedGeneration{std::make_unique<ClientRequest>(std::move(request)), &MakeChatWriter,
                            "chatcmpl-"};
}

absl::StatusOr<PreparedGeneration> PrepareCompletions(const ModelInfo& model,
                                                      absl::string_view body) {
  BALEEN_ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  BALEEN_ASSIGN_OR_RETURN(ClientRequest request, ParseCompletionsRequest(model, json));
  return PreparedGeneration{std::make_unique<ClientRequest>(std::move(request)),
                            &MakeCompletionsWriter, "cmpl-"};
}

absl::StatusOr<PreparedGeneration> PrepareGenerate(const ModelInfo& model, absl::string_view body) {
  BALEEN_ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  BALEEN_ASSIGN_OR_RETURN(GenerateRequest generate, ParseGenerateRequest(model, json));
  const bool batch = generate.batch;
  return PreparedGeneration{
      std::make_unique<ClientRequest>(std::move(generate.request)),
      [batch](ResponseContext c) { return MakeGenerateWriter(std::move(c), batch); }, "gen-"};
}

}  // namespace baleen::router
