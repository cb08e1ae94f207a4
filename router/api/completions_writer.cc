#include "router/api/response_writer.h"

namespace baleen::router {
namespace {

class CompletionsWriter final : public ResponseWriter {
 public:
  explicit CompletionsWriter(ResponseContext context)
      : context_(std::move(context)), choices_(context_.request->prompts.size()) {}

  void OnDelta(int index, const OutputDelta& delta, const Usage& so_far, Events* events) override {
    Choice& choice = choices_[static_cast<size_t>(index)];
    std::string text = Add(index, delta);
    if (!context_.request->stream) return;
    if (text.empty() && delta.prompt_logprobs.empty()) return;
    events->push_back(Chunk(index, std::move(text), TakeLogprobs(&choice), nullptr, so_far));
  }

  void OnEnding(int index, const OutputEnding& ending, const Usage& usage,
                Events* events) override {
    Choice& choice = choices_[static_cast<size_t>(index)];
    std::string text = Add(index, ending.last);
    if (ending.stop_token) AddLogprobs({*ending.stop_token}, &choice);
    choice.finish_reason = ending.finish_reason;
    if (context_.request->stream)
      events->push_back(
          Chunk(index, std::move(text), TakeLogprobs(&choice), ending.finish_reason, usage));
  }

  void OnEnd(const Usage& total, Events* events) override {
    if (!context_.request->include_usage) return;
    Json chunk = Frame();
    chunk["choices"] = Json::array();
    chunk["usage"] = UsageJson(total);
    events->push_back(Dump(chunk));
  }

  std::string Body(const Usage& total) override {
    Json body = Frame();
    body["choices"] = Json::array();
    for (size_t i = 0; i < choices_.size(); ++i)
      body["choices"].push_back(ChoiceJson(static_cast<int>(i), std::move(choices_[i].text),
                                           TakeLogprobs(&choices_[i]), choices_[i].finish_reason));
    body["usage"] = UsageJson(total);
    return Dump(body);
  }

 private:
  struct Choice {
    std::string text;  // collected
    CompletionLogprobs logprobs;
    int64_t offset = 0;  // characters so far
    bool begun = false;
    const char* finish_reason = "stop";
  };

  // Takes a delta in; the text it adds, the echoed prompt first.
  std::string Add(int index, const OutputDelta& delta) {
    Choice& choice = choices_[static_cast<size_t>(index)];
    const ClientRequest& request = *context_.request;
    std::string text;
    if (!std::exchange(choice.begun, true) && request.echo)
      text = request.prompt_texts[static_cast<size_t>(index)];
    text += delta.text;
    if (request.output.logprobs) {
      if (request.echo) AddLogprobs(delta.prompt_logprobs, &choice, /*first_has_none=*/true);
      AddLogprobs(delta.logprobs, &choice);
    }
    if (!request.stream) choice.text += text;
    return text;
  }

  void AddLogprobs(const std::vector<TokenLogprob>& list, Choice* choice,
                   bool first_has_none = false) const {
    choice->logprobs.Append(*context_.model, list, context_.request->output.top_logprobs,
                            first_has_none, &choice->offset);
  }

  Json TakeLogprobs(Choice* choice) const {
    if (!context_.request->output.logprobs) return nullptr;
    return std::exchange(choice->logprobs, {}).ToJson();
  }

  Json Frame() const {
    return {{"id", context_.id},
            {"object", "text_completion"},
            {"created", context_.created},
            {"model", context_.model->name}};
  }

  static Json ChoiceJson(int index, std::string text, Json logprobs, const char* finish_reason) {
    Json choice = {{"index", index}, {"text", std::move(text)}};
    choice["logprobs"] = std::move(logprobs);
    choice["finish_reason"] = finish_reason == nullptr ? Json(nullptr) : Json(finish_reason);
    return choice;
  }

  std::string Chunk(int index, std::string text, Json logprobs, const char* finish_reason,
                    const Usage& usage) const {
    Json chunk = Frame();
    chunk["choices"] =
        Json::array({ChoiceJson(index, std::move(text), std::move(logprobs), finish_reason)});
    if (context_.request->continuous_usage)
      chunk["usage"] = UsageJson(usage);
    else if (context_.request->include_usage)
      chunk["usage"] = nullptr;
    return Dump(chunk);
  }

  const ResponseContext context_;
  std::vector<Choice> choices_;
};

}  // namespace

std::unique_ptr<ResponseWriter> MakeCompletionsWriter(ResponseContext context) {
  return std::make_unique<CompletionsWriter>(std::move(context));
}

}  // namespace baleen::router
