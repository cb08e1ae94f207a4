#include <map>

#include "absl/strings/str_format.h"
#include "common/ids.h"
#include "router/api/response_writer.h"

namespace baleen::router {
namespace {

using Kind = chat::OutputEvent::Kind;

std::string NewCallId() {
  return absl::StrFormat("call_%016x%08x", RandomId(), RandomId() & 0xffffffffu);
}

// One choice always: n > 1 is refused.
class ChatWriter final : public ResponseWriter {
 public:
  explicit ChatWriter(ResponseContext context) : context_(std::move(context)) {}

  void OnDelta(int, const OutputDelta& delta, const Usage& so_far, Events* events) override {
    if (!context_.request->stream) return Collect(delta);
    if (!delta.has_text()) return;
    events->push_back(Chunk(DeltaJson(delta.events), delta.logprobs, nullptr, so_far));
  }

  void OnEnding(int, const OutputEnding& ending, const Usage& usage, Events* events) override {
    if (!context_.request->stream) {
      Collect(ending.last);
      collected_.Close(ending.parsed);
      finish_reason_ = ending.finish_reason;
      return;
    }
    chat::OutputEvents last = ending.last.events;
    chat::EmitText(Kind::kContent, -1, ending.parsed.unparsed, &last);
    events->push_back(Chunk(DeltaJson(last), ending.last.logprobs, ending.finish_reason, usage));
  }

  void OnEnd(const Usage& total, Events* events) override {
    if (!context_.request->include_usage) return;
    Json chunk = Frame("chat.completion.chunk");
    chunk["choices"] = Json::array();
    chunk["usage"] = UsageJson(total);
    events->push_back(Dump(chunk));
  }

  std::string Body(const Usage& total) override {
    Json choice = {{"index", 0}, {"message", Message()}};
    choice["logprobs"] = Logprobs(logprobs_);
    choice["finish_reason"] = finish_reason_;
    Json body = Frame("chat.completion");
    body["choices"] = Json::array({std::move(choice)});
    body["usage"] = UsageJson(total);
    return Dump(body);
  }

 private:
  void Collect(const OutputDelta& delta) {
    collected_.Add(delta.events);
    logprobs_.insert(logprobs_.end(), delta.logprobs.begin(), delta.logprobs.end());
  }

  Json Frame(const char* object) const {
    return {{"id", context_.id},
            {"object", object},
            {"created", context_.created},
            {"model", context_.model->name}};
  }

  Json Logprobs(const std::vector<TokenLogprob>& tokens) const {
    if (!context_.request->output.logprobs) return nullptr;
    return ChatLogprobs(*context_.model, tokens, context_.request->output.top_logprobs);
  }

  std::string Chunk(Json delta, const std::vector<TokenLogprob>& logprobs,
                    const char* finish_reason, const Usage& usage) const {
    Json choice = {{"index", 0}, {"delta", std::move(delta)}};
    choice["logprobs"] = logprobs.empty() ? Json(nullptr) : Logprobs(logprobs);
    choice["finish_reason"] = finish_reason == nullptr ? Json(nullptr) : Json(finish_reason);
    Json chunk = Frame("chat.completion.chunk");
    chunk["choices"] = Json::array({std::move(choice)});
    if (context_.request->continuous_usage)
      chunk["usage"] = UsageJson(usage);
    else if (context_.request->include_usage)
      chunk["usage"] = nullptr;
    return Dump(chunk);
  }

  // All events of one step in one delta; the first of all carries the role.
  Json DeltaJson(const chat::OutputEvents& events) {
    Json delta = Json::object();
    if (!std::exchange(role_sent_, true)) delta = {{"role", "assistant"}, {"content", ""}};
    std::map<int, Json> calls;  // by index
    for (const chat::OutputEvent& event : events) {
      switch (event.kind) {
        case Kind::kReasoning:
          AppendText(event.text, &delta["reasoning_content"]);
          break;
        case Kind::kContent:
          AppendText(event.text, &delta["content"]);
          break;
        case Kind::kToolCallBegin:
          calls[event.call] = {{"index", event.call},
                               {"id", NewCallId()},
                               {"type", "function"},
                               {"function", {{"name", event.text}, {"arguments", ""}}}};
          break;
        case Kind::kToolArguments: {
          Json& call = calls[event.call];
          call["index"] = event.call;
          AppendText(event.text, &call["function"]["arguments"]);
          break;
        }
        case Kind::kToolCallEnd:
          break;
      }
    }
    for (auto& [index, call] : calls) delta["tool_calls"].push_back(std::move(call));
    return delta;
  }

  static void AppendText(const std::string& text, Json* value) {
    *value = value->is_string() ? value->get<std::string>() + text : text;
  }

  Json Message() const {
    Json message = {{"role", "assistant"}};
    const bool null_content =
        collected_.content.empty() && (!collected_.calls.empty() || !collected_.reasoning.empty());
    message["content"] = null_content ? Json(nullptr) : Json(collected_.content);
    if (!collected_.reasoning.empty()) message["reasoning_content"] = collected_.reasoning;
    for (const auto& call : collected_.calls)
      message["tool_calls"].push_back(
          {{"id", NewCallId()},
           {"type", "function"},
           {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
    return message;
  }

  const ResponseContext context_;
  bool role_sent_ = false;
  chat::CollectedOutput collected_;
  std::vector<TokenLogprob> logprobs_;
  const char* finish_reason_ = "stop";
};

}  // namespace

std::unique_ptr<ResponseWriter> MakeChatWriter(ResponseContext context) {
  return std::make_unique<ChatWriter>(std::move(context));
}

}  // namespace baleen::router
