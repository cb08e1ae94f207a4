#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "proto/sampling.pb.h"
#include "router/api/api_error.h"
#include "router/api/prompt_fields.h"
#include "router/api/requests.h"
#include "router/api/sampling_fields.h"
#include "router/chat/chat_encoder.h"
#include "router/chat/chat_request.h"

namespace baleen::router {
namespace {

constexpr char kMessages[] = "messages";

// "messages[2].role: must be …" names its field before the colon.
absl::Status NameParam(const absl::Status& status) {
  const absl::string_view message = status.message();
  const size_t colon = message.find(": ");
  if (status.code() != absl::StatusCode::kInvalidArgument || colon == absl::string_view::npos)
    return status;
  return BadParam(message.substr(0, colon), message.substr(colon + 2));
}

struct EncodedChat {
  TokenIds ids;
  bool starts_in_reasoning = false;
  bool expects_tool_calls = false;
};

absl::StatusOr<EncodedChat> EncodeMessages(const ModelInfo& model, const Json& body) {
  auto prompt = chat::ParseChatMessages(body);
  if (!prompt.ok()) return NameParam(prompt.status());
  auto encoded = chat::EncodeChat(*prompt, model.chat_style);
  if (!encoded.ok()) return NameParam(encoded.status());
  EncodedChat result;
  result.starts_in_reasoning = encoded->starts_in_reasoning;
  result.expects_tool_calls = prompt->expects_tool_calls();
  // The encoder wrote the begin of sentence as text.
  BALEEN_ASSIGN_OR_RETURN(result.ids,
                          PromptFromText(model, encoded->text, kMessages, /*add_bos=*/false));
  return result;
}

// What ParseChatMessages reads.
void KnowMessageFields(FieldReader& fields) {
  fields.Ignore({"messages", "tools", "tool_choice", "parallel_tool_calls", "response_format",
                 "chat_template_kwargs", "thinking", "continue_final_message",
                 "add_generation_prompt"});
}

}  // namespace

absl::StatusOr<ClientRequest> ParseChatRequest(const ModelInfo& model, const Json& body) {
  ClientRequest request;
  FieldReader fields(body);
  BALEEN_RETURN_IF_ERROR(CheckModel(model, fields.String("model")));
  ReadSampling(fields, &request);
  ReadStreamOptions(fields, &request);
  KnowMessageFields(fields);
  fields.Ignore({"user", "metadata", "store", "service_tier", "safety_identifier",
                 "prompt_cache_key", "reasoning_effort", "verbosity", "modalities"});
  request.output.chat = true;
  request.output.logprobs = fields.Bool("logprobs").value_or(false);
  const auto top = fields.Int("top_logprobs");
  if (top && (*top < 0 || *top > kMaxTopLogprobs))
    fields.Fail("top_logprobs", absl::StrCat("must be between 0 and ", kMaxTopLogprobs));
  if (top.value_or(0) > 0 && !request.output.logprobs)
    fields.Fail("top_logprobs", "needs logprobs to be true");
  BALEEN_RETURN_IF_ERROR(fields.status());
  if (request.output.logprobs) {
    request.output.top_logprobs = static_cast<int>(top.value_or(0));
    request.sampling->set_top_logprobs(request.output.top_logprobs);
  }
  BALEEN_RETURN_IF_ERROR(CompleteSampling(model, &request));
  BALEEN_ASSIGN_OR_RETURN(EncodedChat chat, EncodeMessages(model, body));
  request.output.starts_in_reasoning = chat.starts_in_reasoning;
  request.output.expects_tool_calls = chat.expects_tool_calls;
  request.prompts.push_back(std::move(chat.ids));
  request.prompt_field = kMessages;
  request.unknown_fields = fields.UnknownFields();
  return request;
}

absl::StatusOr<TokenIds> ParseTokenizeRequest(const ModelInfo& model, const Json& body) {
  FieldReader fields(body);
  BALEEN_RETURN_IF_ERROR(CheckModel(model, fields.String("model")));
  const bool add_bos = fields.Bool("add_special_tokens").value_or(true);
  const auto prompt = fields.String("prompt");
  BALEEN_RETURN_IF_ERROR(fields.status());
  if (!prompt && !body.contains("messages")) return BadParam("prompt", "give a prompt or messages");
  if (!prompt) {
    BALEEN_ASSIGN_OR_RETURN(EncodedChat chat, EncodeMessages(model, body));
    return chat.ids;
  }
  auto ids = EncodePrompt(model, *prompt, add_bos);
  if (!ids.ok()) return BadParam("prompt", ids.status().message());
  return ids;
}

absl::StatusOr<std::string> ParseDetokenizeRequest(const ModelInfo& model, const Json& body) {
  FieldReader fields(body);
  BALEEN_RETURN_IF_ERROR(CheckModel(model, fields.String("model")));
  const Json* tokens = fields.Array("tokens");
  const bool skip_special = fields.Bool("skip_special_tokens").value_or(false);
  if (tokens == nullptr) fields.Fail("tokens", "must be a list of token ids");
  BALEEN_RETURN_IF_ERROR(fields.status());
  if (tokens->empty()) return std::string();
  BALEEN_ASSIGN_OR_RETURN(const TokenIds ids, PromptFromIds(model, *tokens, "tokens"));
  return model.tokenizer->Decode(std::vector<int32_t>(ids->begin(), ids->end()), skip_special);
}

}  // namespace baleen::router
