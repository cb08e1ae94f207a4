#include "tools/generate.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/status_macros.h"
#include "engine/local_model.h"
#include "model/tokenizer/detokenizer.h"
#include "model/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"
#include "router/chat/chat_encoder.h"
#include "router/chat/chat_request.h"
#include "router/chat/marker_table.h"
#include "router/chat/python_json.h"

namespace baleen::tools {
namespace {

using engine::FinishReason;
using engine::LocalEngine;
using nlohmann::ordered_json;
using tokenizer::Tokenizer;

// The tokenizer, or nullptr when the checkpoint has none and ids were given.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const GenerateOptions& options) {
  const std::string path = options.model + "/tokenizer.json";
  if (options.prompt_ids.has_value() && !std::filesystem::exists(path)) return nullptr;
  return Tokenizer::Load(path);
}

absl::StatusOr<ordered_json> ReadJson(const std::string& file) {
  std::ifstream in(file);
  if (!in) return absl::NotFoundError(absl::StrCat(file, ": cannot be read"));
  std::ostringstream text;
  text << in.rdbuf();
  return chat::ParseJson(text.str());
}

// The ends of an answer that only generation_config.json names: stop tokens, as the router has it.
absl::StatusOr<std::vector<int32_t>> ExtraEos(const std::string& directory) {
  const std::string file = directory + "/generation_config.json";
  if (!std::filesystem::exists(file)) return std::vector<int32_t>();
  BALEEN_ASSIGN_OR_RETURN(const ordered_json json, ReadJson(file));
  if (!json.is_object()) return absl::InvalidArgumentError(file + ": is no object");
  if (!json.contains("eos_token_id")) return std::vector<int32_t>();
  const ordered_json& eos = json["eos_token_id"];
  std::vector<int32_t> ids;
  for (const ordered_json& id : eos.is_array() ? eos : ordered_json::array({eos})) {
    if (!id.is_number_unsigned())
      return absl::InvalidArgumentError(file +
                                        ": eos_token_id: is neither an id nor a list of ids");
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

absl::StatusOr<std::string> ChatText(const std::string& file, chat::ChatStyle style) {
  BALEEN_ASSIGN_OR_RETURN(const ordered_json body, ReadJson(file));
  BALEEN_ASSIGN_OR_RETURN(const chat::ChatPrompt prompt, chat::ParseChatMessages(body));
  BALEEN_ASSIGN_OR_RETURN(chat::EncodedPrompt encoded, chat::EncodeChat(prompt, style));
  return std::move(encoded.text);
}

// `tokenizer` is null only with prompt_ids.
absl::StatusOr<std::vector<int32_t>> PromptIds(const GenerateOptions& options,
                                               const Tokenizer* tokenizer) {
  if (options.prompt_ids.has_value()) return *options.prompt_ids;
  if (options.prompt.has_value()) return tokenizer->Encode(*options.prompt);
  const chat::ChatStyle style = chat::StyleOf(chat::AddedTokensOf(*tokenizer));
  BALEEN_ASSIGN_OR_RETURN(const std::string text, ChatText(*options.chat_file, style));
  return tokenizer->Encode(text);
}

absl::StatusOr<std::unique_ptr<engine::LocalModel>> LoadModel(const GenerateOptions& options,
                                                              const Tokenizer* tokenizer) {
  BALEEN_ASSIGN_OR_RETURN(const model::ModelConfig config, model::LoadModelConfig(options.model));
  engine::LocalModelOptions local{.directory = options.model,
                                  .numerics = options.numerics.value_or(
                                      options.device == "cpu" ? Numerics::kExact : Numerics::kFp8),
                                  .device = options.device,
                                  .threads = options.threads,
                                  .drafts = options.drafts.value_or(config.has_mtp() ? 1 : 0),
                                  .chunk_tokens = options.chunk_tokens,
                                  .max_sequences = 1};
  if (tokenizer != nullptr) {
    local.vocabulary.emplace();
    local.vocabulary->limit = std::min(tokenizer->vocab_limit(), config.vocab_size);
    local.vocabulary->eos_ids.assign(config.eos_token_ids.begin(), config.eos_token_ids.end());
    for (int32_t id = 0; id < local.vocabulary->limit; ++id) {
      if (!tokenizer->HasToken(id)) local.vocabulary->missing.push_back(id);
    }
  }
  return engine::LocalModel::Create(local);
}

ordered_json LogprobsJson(const std::vector<model::TokenLogprobs>& logprobs) {
  ordered_json list = ordered_json::array();
  for (const model::TokenLogprobs& entry : logprobs) {
    ordered_json top = ordered_json::array();
    for (size_t i = 0; i < entry.top_tokens.size(); ++i) {
      top.push_back({entry.top_tokens[i], entry.top_logprobs[i]});
    }
    list.push_back({{"id", entry.token}, {"logprob", entry.logprob}, {"top", std::move(top)}});
  }
  return list;
}

ordered_json ResultJson(const LocalEngine::Result& result, const Tokenizer* tokenizer) {
  ordered_json json{{"ids", result.tokens}};
  if (tokenizer != nullptr) {
    std::span<const int32_t> shown = result.tokens;
    if (result.finish == FinishReason::kStop) shown = shown.first(shown.size() - 1);
    json["text"] = tokenizer->Decode(shown, /*skip_special=*/false);
  }
  json["finish_reason"] = result.finish == FinishReason::kStop ? "stop" : "length";
  if (!result.logprobs.empty()) json["logprobs"] = LogprobsJson(result.logprobs);
  json["steps"] = result.steps;
  json["tokens_per_step"] = result.tokens_per_step();
  return json;
}

// Answers; with `live`, writes the text (or ids) there as it comes.
absl::StatusOr<LocalEngine::Result> Answer(LocalEngine& engine, std::vector<int32_t> prompt,
                                           const model::SamplingParams& sampling,
                                           const Tokenizer* tokenizer, std::ostream* live) {
  BALEEN_ASSIGN_OR_RETURN(const uint64_t id, engine.Submit(std::move(prompt), sampling));
  std::optional<tokenizer::Detokenizer> text;
  if (tokenizer != nullptr) text.emplace(*tokenizer, /*skip_special=*/true);
  const auto emitted = [&](uint64_t, int32_t token) {
    if (live == nullptr) return;
    if (text.has_value()) {
      *live << text->Push(token) << std::flush;
    } else {
      *live << token << ' ' << std::flush;
    }
  };
  while (engine.Step(emitted)) {
  }
  if (live != nullptr) *live << (text.has_value() ? text->Finish() : "") << "\n";
  LocalEngine::Result result = *engine.Take(id);
  BALEEN_RETURN_IF_ERROR(result.status);
  return result;
}

}  // namespace

absl::Status Generate(const GenerateOptions& options, std::ostream& out) {
  const TimePoint begin = SteadyClock().Now();
  BALEEN_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(options));
  BALEEN_ASSIGN_OR_RETURN(const auto local, LoadModel(options, tokenizer.get()));
  const double load_seconds = SecondsSince(begin);
  BALEEN_ASSIGN_OR_RETURN(std::vector<int32_t> prompt, PromptIds(options, tokenizer.get()));
  const size_t prompt_tokens = prompt.size();

  model::SamplingParams sampling = options.sampling;
  if (!sampling.ignore_eos) {
    BALEEN_ASSIGN_OR_RETURN(const std::vector<int32_t> ends, ExtraEos(options.model));
    sampling.stop_token_ids.insert(sampling.stop_token_ids.end(), ends.begin(), ends.end());
  }
  const int64_t room = int64_t{local->config().max_position_embeddings} - int64_t(prompt_tokens);
  if (room > 0) sampling.max_new_tokens = int(std::min<int64_t>(sampling.max_new_tokens, room));
  const TimePoint start = SteadyClock().Now();
  BALEEN_ASSIGN_OR_RETURN(const LocalEngine::Result result,
                          Answer(local->engine(), std::move(prompt), sampling, tokenizer.get(),
                                 options.json ? nullptr : &out));
  if (!options.json) return absl::OkStatus();
  ordered_json json{{"prompt_tokens", prompt_tokens}};
  json.update(ResultJson(result, tokenizer.get()));
  json["seconds"] = {{"load", load_seconds}, {"generate", SecondsSince(start)}};
  out << json.dump() << std::endl;
  return absl::OkStatus();
}

}  // namespace baleen::tools
