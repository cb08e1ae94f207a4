#include "router/api/response_writer.h"

namespace baleen::router {
namespace {

class GenerateWriter final : public ResponseWriter {
 public:
  GenerateWriter(ResponseContext context, bool batch)
      : context_(std::move(context)), batch_(batch), choices_(context_.request->prompts.size()) {}

  void OnDelta(int index, const OutputDelta& delta, const Usage& so_far, Events* events) override {
    Add(index, delta);
    if (context_.request->stream && delta.has_text())
      events->push_back(Dump(State(index, so_far, nullptr)));
  }

  void OnEnding(int index, const OutputEnding& ending, const Usage& usage,
                Events* events) override {
    Add(index, ending.last);
    Json reason = {{"type", ending.finish_reason}};
    if (!ending.matched_stop.empty()) reason["matched"] = ending.matched_stop;
    if (ending.info.reason == TokenFinish::kLength) reason["length"] = usage.completion_tokens;
    Choice& choice = choices_[static_cast<size_t>(index)];
    choice.final = State(index, usage, std::move(reason));
    if (ending.info.steps > 0) {
      choice.final["meta_info"]["spec_verify_ct"] = ending.info.steps;
      choice.final["meta_info"]["spec_accept_length"] =
          double(usage.completion_tokens) / ending.info.steps;
    }
    if (context_.request->stream) events->push_back(Dump(choice.final));
  }

  void OnEnd(const Usage&, Events*) override {}

  std::string Body(const Usage&) override {
    if (!batch_) return Dump(choices_.front().final);
    Json list = Json::array();
    for (Choice& choice : choices_) list.push_back(std::move(choice.final));
    return Dump(list);
  }

 private:
  struct Choice {
    std::string text;
    std::vector<uint32_t> ids;
    Json input_logprobs = Json::array();
    Json output_logprobs = Json::array();
    Json final;
  };

  void Add(int index, const OutputDelta& delta) {
    Choice& choice = choices_[static_cast<size_t>(index)];
    choice.text += delta.text;
    choice.ids.insert(choice.ids.end(), delta.tokens.begin(), delta.tokens.end());
    for (size_t i = 0; i < delta.prompt_logprobs.size(); ++i)
      choice.input_logprobs.push_back(Entry(delta.prompt_logprobs[i], /*has_value=*/i > 0));
    for (const TokenLogprob& t : delta.logprobs) choice.output_logprobs.push_back(Entry(t, true));
  }

  // SGLang's triple: logprob, id, text (null unless asked for).
  static Json Entry(const TokenLogprob& t, bool has_value) {
    return Json::array({has_value ? Json(t.logprob) : Json(nullptr), t.token, nullptr});
  }

  Json State(int index, const Usage& usage, Json finish_reason) const {
    const Choice& choice = choices_[static_cast<size_t>(index)];
    Json meta = {{"id", context_.id}};
    meta["finish_reason"] = std::move(finish_reason);
    meta["prompt_tokens"] = usage.prompt_tokens;
    meta["completion_tokens"] = usage.completion_tokens;
    meta["cached_tokens"] = usage.cached_tokens;
    if (context_.request->output.logprobs) {
      meta["input_token_logprobs"] = choice.input_logprobs;
      meta["output_token_logprobs"] = choice.output_logprobs;
    }
    Json state = {{"text", choice.text}, {"output_ids", choice.ids}};
    state["meta_info"] = std::move(meta);
    if (batch_) state["index"] = index;
    return state;
  }

  const ResponseContext context_;
  const bool batch_;
  std::vector<Choice> choices_;
};

}  // namespace

std::unique_ptr<ResponseWriter> MakeGenerateWriter(ResponseContext context, bool batch) {
  return std::make_unique<GenerateWriter>(std::move(context), batch);
}

}  // namespace baleen::router
