#include <algorithm>
#include <utility>

#include "router/api/response_writer.h"

namespace baleen::router {
namespace {

class GenerateWriter final : public ResponseWriter {
 public:
  GenerateWriter(ResponseContext context, bool batch)
      : context_(std::move(context)), batch_(batch), choices_(context_.request->prompts.size()) {}

  void OnDelta(int index, const OutputDelta& delta, const Usage& so_far, Events* events) override {
    Add(index, delta);
    if (!context_.request->stream || !delta.has_text()) return;
    Json state = State(index, so_far, nullptr);
    Choice& choice = choices_[static_cast<size_t>(index)];
    if (!std::exchange(choice.prompt_sent, true))
      AddPromptLogprobs(choice.input_logprobs, choice.input_top, &state);
    events->push_back(Dump(state));
  }

  void OnEnding(int index, const OutputEnding& ending, const Usage& usage,
                Events* events) override {
    Add(index, ending.last);
    Json reason = {{"type", ending.finish_reason}};
    if (!ending.matched_stop.empty()) reason["matched"] = ending.matched_stop;
    if (ending.info.reason == TokenFinish::kLength) reason["length"] = usage.completion_tokens;
    Choice& choice = choices_[static_cast<size_t>(index)];
    if (ending.stop_token) AddOutputLogprob(*ending.stop_token, &choice);
    choice.final = State(index, usage, std::move(reason));
    AddPromptLogprobs(std::move(choice.input_logprobs), std::move(choice.input_top), &choice.final);
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
    Json input_top = Json::array();  // by token, a list of alternatives
    Json output_top = Json::array();
    bool prompt_sent = false;  // an event with the input lists
    Json final;
  };

  void Add(int index, const OutputDelta& delta) {
    Choice& choice = choices_[static_cast<size_t>(index)];
    choice.text += delta.text;
    choice.ids.insert(choice.ids.end(), delta.tokens.begin(), delta.tokens.end());
    for (size_t i = 0; i < delta.prompt_logprobs.size(); ++i) {
      const TokenLogprob& t = delta.prompt_logprobs[i];
      const bool first = i == 0;  // nothing predicts it
      choice.input_logprobs.push_back(Entry(t.token, first ? Json(nullptr) : Json(t.logprob)));
      choice.input_top.push_back(first ? Json(nullptr) : Top(t));
    }
    for (const TokenLogprob& t : delta.logprobs) AddOutputLogprob(t, &choice);
  }

  void AddOutputLogprob(const TokenLogprob& t, Choice* choice) const {
    choice->output_logprobs.push_back(Entry(t.token, t.logprob));
    choice->output_top.push_back(Top(t));
  }

  // SGLang's triple: logprob, id, text (null unless asked for).
  Json Entry(uint32_t token, Json logprob) const {
    const bool texts = context_.request->output.logprob_texts;
    Json entry = Json::array({std::move(logprob), token, nullptr});
    if (texts) entry.back() = TokenText(*context_.model, token);
    return entry;
  }

  Json Top(const TokenLogprob& t) const {
    const auto wanted = static_cast<size_t>(context_.request->output.top_logprobs);
    Json list = Json::array();
    for (size_t i = 0; i < std::min(t.top.size(), wanted); ++i)
      list.push_back(Entry(t.top[i].first, t.top[i].second));
    return list;
  }

  // The client's id of a choice, or ours of the response.
  const std::string& IdOf(int index) const {
    const auto& ids = context_.request->request_ids;
    if (ids.empty()) return context_.id;
    return ids.size() == 1 ? ids.front() : ids[static_cast<size_t>(index)];
  }

  // All of the choice so far, but for the prompt's logprobs.
  Json State(int index, const Usage& usage, Json finish_reason) const {
    const Choice& choice = choices_[static_cast<size_t>(index)];
    Json meta = {{"id", IdOf(index)}};
    meta["finish_reason"] = std::move(finish_reason);
    meta["prompt_tokens"] = usage.prompt_tokens;
    meta["completion_tokens"] = usage.completion_tokens;
    meta["cached_tokens"] = usage.cached_tokens;
    if (context_.request->output.logprobs) meta["output_token_logprobs"] = choice.output_logprobs;
    if (context_.request->output.top_logprobs > 0) meta["output_top_logprobs"] = choice.output_top;
    Json state = {{"text", choice.text}, {"output_ids", choice.ids}};
    state["meta_info"] = std::move(meta);
    if (batch_) state["index"] = index;
    return state;
  }

  // In a stream only to the first event and the last: they do not change, and are as long as the
  // prompt.
  void AddPromptLogprobs(Json entries, Json top, Json* state) const {
    Json& meta = (*state)["meta_info"];
    if (context_.request->output.logprobs) meta["input_token_logprobs"] = std::move(entries);
    if (context_.request->output.top_logprobs > 0) meta["input_top_logprobs"] = std::move(top);
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
