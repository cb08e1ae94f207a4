#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "proto/sampling.pb.h"
#include "router/api/api_error.h"
#include "router/api/prompt_fields.h"
#include "router/api/requests.h"
#include "router/api/sampling_fields.h"

namespace baleen::router {
namespace {

constexpr int kGenerateDefaultNewTokens = 128;  // SGLang's
constexpr size_t kMaxRequestIdBytes = 128;

// An integer, or false for none.
void ReadCompletionLogprobs(FieldReader& fields, ClientRequest* request) {
  const Json* value = fields.Any("logprobs");
  if (value == nullptr || *value == false) return;
  if (!value->is_number_integer() || *value < 0 || *value > kMaxTopLogprobs)
    return fields.Fail("logprobs", absl::StrCat("must be between 0 and ", kMaxTopLogprobs));
  request->output.logprobs = true;
  request->output.top_logprobs = value->get<int>();
  request->sampling->set_top_logprobs(request->output.top_logprobs);
}

void ReadGenerateLogprobs(FieldReader& fields, ClientRequest* request) {
  const bool wanted = fields.Bool("return_logprob").value_or(false);
  const int64_t top = fields.Int("top_logprobs_num").value_or(0);
  // SGLang's -1: none of the prompt's. The prompt's come all together.
  const int64_t start = fields.Int("logprob_start_len").value_or(-1);
  const bool texts = fields.Bool("return_text_in_logprobs").value_or(false);
  if (start != -1 && start != 0)
    fields.Fail("logprob_start_len", "must be -1 (none of the prompt) or 0 (all of it)",
                "unsupported_value");
  if (top < 0 || top > kMaxTopLogprobs)
    fields.Fail("top_logprobs_num", absl::StrCat("must be between 0 and ", kMaxTopLogprobs));
  if (!wanted) return;
  request->output.logprobs = true;
  request->output.top_logprobs = static_cast<int>(top);
  request->sampling->set_top_logprobs(request->output.top_logprobs);
  request->output.logprob_texts = texts;
  if (start == 0) request->sampling->set_prompt_logprobs(true);
}

// A string, or one string a prompt.
void ReadRid(FieldReader& fields, ClientRequest* request) {
  const Json* rid = fields.Any("rid");
  if (rid == nullptr) return;
  const Json list = rid->is_array() ? *rid : Json::array({*rid});
  for (const Json& id : list) {
    const bool usable =
        id.is_string() && id != "" && id.get_ref<const std::string&>().size() <= kMaxRequestIdBytes;
    if (!usable)
      return fields.Fail("rid", absl::StrCat("must be a string of 1 to ", kMaxRequestIdBytes,
                                             " bytes, or a list of one a prompt"));
    request->request_ids.push_back(id.get<std::string>());
  }
}

absl::Status CheckRids(const Json& body, const GenerateRequest& generate) {
  const auto rid = body.find("rid");
  if (rid == body.end() || !rid->is_array()) return absl::OkStatus();
  const size_t prompts = generate.request.prompts.size();
  if (generate.batch && rid->size() == prompts) return absl::OkStatus();
  return BadParam("rid", absl::StrCat("a list of ", rid->size(), " for ", prompts, " prompts"));
}

}  // namespace

absl::StatusOr<ClientRequest> ParseCompletionsRequest(const ModelInfo& model, const Json& body) {
  ClientRequest request;
  FieldReader fields(body);
  BALEEN_RETURN_IF_ERROR(CheckModel(model, fields.String("model")));
  request.echo = fields.Bool("echo").value_or(false);
  ReadSampling(fields, &request, /*least_new_tokens=*/request.echo ? 0 : 1);
  ReadStreamOptions(fields, &request);
  ReadCompletionLogprobs(fields, &request);
  const bool add_bos = fields.Bool("add_special_tokens").value_or(true);
  fields.Refuse({"suffix"});
  fields.Ignore({"user", "metadata", "store"});
  const Json* prompt = fields.Any("prompt");
  if (prompt == nullptr) fields.Fail("prompt", "is required");
  BALEEN_RETURN_IF_ERROR(fields.status());
  if (request.echo && request.output.logprobs) request.sampling->set_prompt_logprobs(true);
  BALEEN_RETURN_IF_ERROR(CompleteSampling(model, &request));
  BALEEN_RETURN_IF_ERROR(ReadPrompts(model, *prompt, "prompt", add_bos, &request));
  request.unknown_fields = fields.UnknownFields();
  return request;
}

absl::StatusOr<GenerateRequest> ParseGenerateRequest(const ModelInfo& model, const Json& body) {
  GenerateRequest generate;
  ClientRequest& request = generate.request;
  FieldReader fields(body);
  request.stream = fields.Bool("stream").value_or(false);
  ReadGenerateLogprobs(fields, &request);
  ReadRid(fields, &request);
  fields.Ignore({"log_metrics"});
  fields.Refuse({"audio_data", "bootstrap_host", "bootstrap_port", "bootstrap_room",
                 "custom_logit_processor", "image_data", "input_embeds", "lora_path",
                 "return_hidden_states", "return_routed_experts", "session_params",
                 "token_ids_logprob", "video_data"});
  request.max_new_tokens = kGenerateDefaultNewTokens;
  if (const Json* sampling = fields.Object("sampling_params")) {
    FieldReader inner(*sampling, "sampling_params.");
    ReadSampling(inner, &request, /*least_new_tokens=*/0);
    if (const auto seed = inner.Int("sampling_seed"))
      request.sampling->set_seed(static_cast<uint64_t>(*seed));
    inner.Ignore({"spaces_between_special_tokens"});
    inner.Refuse({"ebnf", "json_schema", "regex", "structural_tag"});
    BALEEN_RETURN_IF_ERROR(inner.status());
    request.unknown_fields = inner.UnknownFields();
  }
  const Json* text = fields.Any("text");
  const Json* ids = fields.Any("input_ids");
  if ((text == nullptr) == (ids == nullptr)) fields.Fail("text", "give either text or input_ids");
  BALEEN_RETURN_IF_ERROR(fields.status());
  BALEEN_RETURN_IF_ERROR(CompleteSampling(model, &request));
  const Json& prompt = text != nullptr ? *text : *ids;
  BALEEN_RETURN_IF_ERROR(ReadPrompts(model, prompt, text != nullptr ? "text" : "input_ids",
                                     /*add_bos=*/true, &request));
  generate.batch = prompt.is_array() && !prompt.front().is_number();
  BALEEN_RETURN_IF_ERROR(CheckRids(body, generate));
  for (std::string& name : fields.UnknownFields())
    request.unknown_fields.push_back(std::move(name));
  return generate;
}

}  // namespace baleen::router
