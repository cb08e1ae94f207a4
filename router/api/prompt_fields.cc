#include "router/api/prompt_fields.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "proto/sampling.pb.h"
#include "router/api/api_error.h"

namespace baleen::router {
namespace {

constexpr char kTooLong[] = "context_length_exceeded";

absl::Status CheckId(const ModelInfo& model, uint64_t id, absl::string_view param) {
  if (id < static_cast<uint64_t>(model.token_limit())) return absl::OkStatus();
  return BadParam(param,
                  absl::StrCat(id, " is not a token id (vocabulary of ", model.token_limit(), ")"));
}

bool IsListOf(const Json& value, bool (*is)(const Json&)) {
  return value.is_array() && std::all_of(value.begin(), value.end(), is);
}

absl::Status AddText(const ModelInfo& model, const Json& text, absl::string_view param,
                     bool add_bos, ClientRequest* request) {
  if (text.get_ref<const std::string&>().empty() && !add_bos)
    return BadParam(param, "must not be empty");
  BALEEN_ASSIGN_OR_RETURN(
      TokenIds prompt, PromptFromText(model, text.get_ref<const std::string&>(), param, add_bos));
  request->prompts.push_back(std::move(prompt));
  if (request->echo) request->prompt_texts.push_back(text.get<std::string>());
  return absl::OkStatus();
}

absl::Status AddIds(const ModelInfo& model, const Json& ids, absl::string_view param,
                    ClientRequest* request) {
  BALEEN_ASSIGN_OR_RETURN(TokenIds prompt, PromptFromIds(model, ids, param));
  if (request->echo) {
    const std::vector<int32_t> signed_ids(prompt->begin(), prompt->end());
    request->prompt_texts.push_back(model.tokenizer->Decode(signed_ids, /*skip_special=*/true));
  }
  request->prompts.push_back(std::move(prompt));
  return absl::OkStatus();
}

// Whether prompt and answer can fit: the answer only has to fit where it is generated.
absl::Status CheckRoom(const ClusterView& view, int64_t context, int64_t tokens,
                       absl::string_view param) {
  const auto refuse = [&](absl::string_view limit, int64_t room, absl::string_view of_what) {
    return BadParam(
        param, absl::StrCat("has ", tokens, " tokens, but ", limit, room, " tokens, ", of_what),
        kTooLong);
  };
  constexpr char kBoth[] = "prompt and answer together";
  const int64_t decode = view.DecodeRoom();
  if (tokens >= decode && decode < context)
    return refuse("the decode workers' page pools hold ", decode, kBoth);
  if (tokens >= context) return refuse("the context is ", context, kBoth);
  if (tokens > view.PrefillRoom())
    return refuse("the prefill workers' page pools hold ", view.PrefillRoom(), "prompt only");
  return absl::OkStatus();
}

// `wanted` 0: as many as fit.
int MaxNewTokens(const ClusterView& view, int64_t context, int64_t tokens, int wanted) {
  const int64_t some_time = std::min(context, view.DecodeRoom()) - tokens;
  if (wanted > 0 && wanted <= some_time) return wanted;
  const int64_t now = std::min(context, view.ReadyDecodeRoom()) - tokens;
  return static_cast<int>(now > 0 ? now : some_time);
}

}  // namespace

absl::StatusOr<TokenIds> EncodePrompt(const ModelInfo& model, absl::string_view text,
                                      bool add_bos) {
  BALEEN_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, model.tokenizer->Encode(text));
  auto prompt = std::make_shared<std::vector<uint32_t>>();
  prompt->reserve(ids.size() + 1);
  if (add_bos && (ids.empty() || static_cast<uint32_t>(ids.front()) != model.bos))
    prompt->push_back(model.bos);
  prompt->insert(prompt->end(), ids.begin(), ids.end());
  return TokenIds(std::move(prompt));
}

absl::StatusOr<TokenIds> PromptFromText(const ModelInfo& model, absl::string_view text,
                                        absl::string_view param, bool add_bos) {
  const size_t least_tokens = text.size() / model.tokenizer->max_token_bytes();
  if (least_tokens >= static_cast<size_t>(model.max_context))
    return BadParam(param,
                    absl::StrCat("has at least ", least_tokens, " tokens, but the context is ",
                                 model.max_context, " tokens, prompt and answer together"),
                    kTooLong);
  auto ids = EncodePrompt(model, text, add_bos);
  if (!ids.ok()) return BadParam(param, ids.status().message());
  return ids;
}

absl::StatusOr<TokenIds> PromptFromIds(const ModelInfo& model, const Json& ids,
                                       absl::string_view param) {
  std::vector<uint32_t> prompt;
  prompt.reserve(ids.size());
  for (const Json& id : ids) {
    if (!id.is_number_unsigned()) return BadParam(param, "token ids must be integers of 0 or more");
    BALEEN_RETURN_IF_ERROR(CheckId(model, id.get<uint64_t>(), param));
    prompt.push_back(id.get<uint32_t>());
  }
  return PromptFromIds(model, std::move(prompt), param);
}

absl::StatusOr<TokenIds> PromptFromIds(const ModelInfo& model, std::vector<uint32_t> ids,
                                       absl::string_view param) {
  if (ids.empty()) return BadParam(param, "must not be empty");
  for (uint32_t id : ids) BALEEN_RETURN_IF_ERROR(CheckId(model, id, param));
  return TokenIds(std::make_shared<std::vector<uint32_t>>(std::move(ids)));
}

absl::Status ReadPrompts(const ModelInfo& model, const Json& value, absl::string_view param,
                         bool add_bos, ClientRequest* request) {
  request->prompt_field = std::string(param);
  const auto is_string = [](const Json& j) { return j.is_string(); };
  const auto is_number = [](const Json& j) { return j.is_number(); };
  const auto is_ids = [](const Json& j) {
    return IsListOf(j, [](const Json& id) { return id.is_number(); });
  };
  if (value.is_string()) return AddText(model, value, param, add_bos, request);
  if (!value.is_array() || value.empty())
    return BadParam(param,
                    "must be a string, a list of strings, a list of token ids or a list of "
                    "lists of token ids, and not empty");
  if (IsListOf(value, is_number)) return AddIds(model, value, param, request);
  if (value.size() > kMaxPrompts)
    return BadParam(param, absl::StrCat("has more than ", kMaxPrompts, " prompts"));
  const bool texts = IsListOf(value, is_string);
  if (!texts && !IsListOf(value, is_ids))
    return BadParam(param, "mixes texts and token ids, or has values of another type");
  for (const Json& prompt : value)
    BALEEN_RETURN_IF_ERROR(texts ? AddText(model, prompt, param, add_bos, request)
                                 : AddIds(model, prompt, param, request));
  return absl::OkStatus();
}

absl::Status CheckModel(const ModelInfo& model, const std::optional<std::string>& name) {
  if (!name || *name == model.name) return absl::OkStatus();
  return WithCode(
      absl::NotFoundError(absl::StrCat("the model \"", *name,
                                       "\" does not exist; this server has \"", model.name, "\"")),
      "model_not_found");
}

absl::StatusOr<std::vector<DispatchRequest>> ToDispatchRequests(const ModelInfo& model,
                                                                const ClusterView& view,
                                                                const ClientRequest& request,
                                                                TimePoint received) {
  const int64_t context = view.MaxContext(model.max_context);
  std::vector<DispatchRequest> dispatches;
  for (const TokenIds& prompt : request.prompts) {
    const int64_t tokens = static_cast<int64_t>(prompt->size());
    BALEEN_RETURN_IF_ERROR(CheckRoom(view, context, tokens, request.prompt_field));
    DispatchRequest dispatch;
    dispatch.max_new_tokens = MaxNewTokens(view, context, tokens, request.max_new_tokens);
    auto sampling = std::make_shared<v1::SamplingParams>(*request.sampling);
    sampling->set_max_new_tokens(dispatch.max_new_tokens);
    dispatch.prompt = prompt;
    dispatch.sampling = std::move(sampling);
    dispatch.received = received;
    dispatches.push_back(std::move(dispatch));
  }
  return dispatches;
}

}  // namespace baleen::router
