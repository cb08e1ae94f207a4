#include <algorithm>

#include "router/api/response_writer.h"

namespace baleen::router {
namespace {

Json Bytes(absl::string_view text) {
  Json bytes = Json::array();
  for (const char c : text) bytes.push_back(static_cast<uint8_t>(c));
  return bytes;
}

Json ChatEntry(const ModelInfo& model, uint32_t token, float logprob) {
  const absl::string_view bytes = model.tokenizer->TokenBytes(static_cast<int32_t>(token));
  return {{"token", TokenText(model, token)}, {"logprob", logprob}, {"bytes", Bytes(bytes)}};
}

int64_t Characters(const std::string& text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; });
}

// Two tokens may have the same text (U+FFFD): the likelier one stands for both.
void AddTop(const std::string& text, float logprob, Json* top) {
  const auto it = top->find(text);
  if (it == top->end() || it->get<float>() < logprob) (*top)[text] = logprob;
}

}  // namespace

Json UsageJson(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

std::string TokenText(const ModelInfo& model, uint32_t token) {
  const int32_t id = static_cast<int32_t>(token);
  return model.tokenizer->Decode({&id, 1}, /*skip_special=*/false);
}

Json ChatLogprobs(const ModelInfo& model, const std::vector<TokenLogprob>& tokens, int top) {
  Json content = Json::array();
  for (const TokenLogprob& t : tokens) {
    Json entry = ChatEntry(model, t.token, t.logprob);
    Json alternatives = Json::array();
    for (size_t i = 0; i < std::min(t.top.size(), static_cast<size_t>(top)); ++i)
      alternatives.push_back(ChatEntry(model, t.top[i].first, t.top[i].second));
    entry["top_logprobs"] = std::move(alternatives);
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}};
}

void CompletionLogprobs::Append(const ModelInfo& model, const std::vector<TokenLogprob>& list,
                                int top, bool first_has_none, int64_t* offset) {
  for (size_t i = 0; i < list.size(); ++i) {
    const TokenLogprob& t = list[i];
    const std::string text = TokenText(model, t.token);
    tokens.push_back(text);
    text_offset.push_back(*offset);
    // Special tokens are not in the text.
    if (!model.tokenizer->IsSpecial(static_cast<int32_t>(t.token))) *offset += Characters(text);
    if (i == 0 && first_has_none) {
      token_logprobs.push_back(nullptr);
      top_logprobs.push_back(nullptr);
      continue;
    }
    token_logprobs.push_back(t.logprob);
    Json alternatives = Json::object();
    for (size_t j = 0; j < std::min(t.top.size(), static_cast<size_t>(top)); ++j)
      AddTop(TokenText(model, t.top[j].first), t.top[j].second, &alternatives);
    AddTop(text, t.logprob, &alternatives);
    top_logprobs.push_back(std::move(alternatives));
  }
}

Json CompletionLogprobs::ToJson() const {
  return {{"text_offset", text_offset},
          {"token_logprobs", token_logprobs},
          {"tokens", tokens},
          {"top_logprobs", top_logprobs}};
}

}  // namespace baleen::router
