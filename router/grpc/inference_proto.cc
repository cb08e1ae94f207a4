#include "router/grpc/inference_proto.h"

#include "common/status_macros.h"
#include "router/api/api_error.h"
#include "router/api/prompt_fields.h"
#include "router/api/requests.h"
#include "router/api/sampling_fields.h"

namespace baleen::router {
namespace {

template <typename Out>
void SetLogprobs(const std::vector<TokenLogprob>& from, Out* to) {
  for (const TokenLogprob& t : from) {
    v1::TokenLogprob* out = to->Add();
    out->set_token(t.token);
    out->set_logprob(t.logprob);
    for (const auto& [token, logprob] : t.top) {
      out->add_top_tokens(token);
      out->add_top_logprobs(logprob);
    }
  }
}

void SetFinishFields(const OutputEnding& ending, const Usage& usage, v1::GenerationFinish* out) {
  out->set_reason(ending.finish_reason);
  out->set_matched_stop(ending.matched_stop);
  out->set_prompt_tokens(static_cast<int32_t>(usage.prompt_tokens));
  out->set_completion_tokens(static_cast<int32_t>(usage.completion_tokens));
  out->set_cached_tokens(static_cast<int32_t>(usage.cached_tokens));
  out->set_steps(ending.info.steps);
  out->set_accepted_drafts(ending.info.accepted_drafts);
}

// The entry of the call with that index, which is the last one if there is any.
v1::ToolCallDelta* CallEntry(int index, v1::ChatDelta* out) {
  if (out->tool_calls_size() > 0) {
    v1::ToolCallDelta* last = out->mutable_tool_calls(out->tool_calls_size() - 1);
    if (last->index() == index) return last;
  }
  v1::ToolCallDelta* call = out->add_tool_calls();
  call->set_index(index);
  return call;
}

}  // namespace

absl::StatusOr<ClientRequest> FromProto(const ModelInfo& model,
                                        const v1::GenerateRequest& request) {
  ClientRequest r;
  if (!request.model().empty()) BALEEN_RETURN_IF_ERROR(CheckModel(model, request.model()));
  *r.sampling = request.sampling();
  if (r.sampling->has_max_new_tokens() && r.sampling->max_new_tokens() < 1)
    return BadParam("sampling.max_new_tokens", "must be at least 1");
  r.max_new_tokens = r.sampling->max_new_tokens();
  r.output.stop.assign(request.stop().begin(), request.stop().end());
  r.output.keep_stop = request.keep_stop();
  r.output.skip_special = !request.has_skip_special_tokens() || request.skip_special_tokens();
  r.output.logprobs = r.sampling->has_top_logprobs();
  r.output.top_logprobs = r.sampling->top_logprobs();
  r.stream = true;
  BALEEN_RETURN_IF_ERROR(CompleteSampling(model, &r));
  if (!request.has_text() && !request.has_token_ids())
    return BadParam("prompt", "give text or token_ids");
  r.prompt_field = request.has_text() ? "text" : "token_ids";
  const auto& ids = request.token_ids().ids();
  auto prompt =
      request.has_text()
          ? PromptFromText(model, request.text(), r.prompt_field)
          : PromptFromIds(model, std::vector<uint32_t>(ids.begin(), ids.end()), r.prompt_field);
  if (!prompt.ok()) return prompt.status();
  r.prompts.push_back(*std::move(prompt));
  return r;
}

absl::StatusOr<ClientRequest> FromProto(const ModelInfo& model, const v1::ChatRequest& request) {
  BALEEN_ASSIGN_OR_RETURN(const Json body, ParseBody(request.body_json()));
  return ParseChatRequest(model, body);
}

void ToProto(const OutputDelta& delta, v1::TextDelta* out) {
  out->set_text(delta.text);
  out->mutable_tokens()->Add(delta.tokens.begin(), delta.tokens.end());
  SetLogprobs(delta.logprobs, out->mutable_logprobs());
  SetLogprobs(delta.prompt_logprobs, out->mutable_prompt_logprobs());
}

void ToProto(const OutputDelta& delta, v1::ChatDelta* out) {
  using Kind = chat::OutputEvent::Kind;
  for (const chat::OutputEvent& event : delta.events) {
    switch (event.kind) {
      case Kind::kReasoning:
        out->mutable_reasoning()->append(event.text);
        break;
      case Kind::kContent:
        out->mutable_content()->append(event.text);
        break;
      case Kind::kToolCallBegin:
        CallEntry(event.call, out)->set_name(event.text);
        break;
      case Kind::kToolArguments:
        CallEntry(event.call, out)->mutable_arguments()->append(event.text);
        break;
      case Kind::kToolCallEnd:
        CallEntry(event.call, out)->set_complete(true);
        break;
    }
  }
  out->mutable_tokens()->Add(delta.tokens.begin(), delta.tokens.end());
  SetLogprobs(delta.logprobs, out->mutable_logprobs());
}

void SetDelta(const OutputDelta& delta, v1::GenerateResponse* response) {
  ToProto(delta, response->mutable_delta());
}
void SetDelta(const OutputDelta& delta, v1::ChatResponse* response) {
  ToProto(delta, response->mutable_delta());
}
void SetFinish(const OutputEnding& ending, const Usage& usage, v1::GenerateResponse* response) {
  ToProto(ending.last, response->mutable_finish()->mutable_last());
  SetFinishFields(ending, usage, response->mutable_finish());
}
void SetFinish(const OutputEnding& ending, const Usage& usage, v1::ChatResponse* response) {
  v1::ChatDelta* last = response->mutable_finish()->mutable_last();
  ToProto(ending.last, last);
  last->mutable_content()->append(ending.parsed.unparsed);  // of a call that was given up
  SetFinishFields(ending, usage, response->mutable_finish()->mutable_finish());
}

}  // namespace baleen::router
