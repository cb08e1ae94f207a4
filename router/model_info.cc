#include "router/model_info.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "router/api/field_reader.h"
#include "router/api/json.h"
#include "router/chat/python_json.h"
#include "xxhash.h"

namespace baleen::router {
namespace {

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat(path, ": cannot open"));
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

absl::StatusOr<Json> ReadJsonFile(const std::string& path) {
  BALEEN_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  auto json = ParseBody(text);
  if (!json.ok())
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", json.status().message()));
  return json;
}

// eos_token_id is a number or a list of numbers.
std::vector<uint32_t> EosIds(FieldReader& fields) {
  std::vector<uint32_t> ids;
  const Json* eos = fields.Any("eos_token_id");
  if (eos == nullptr) return ids;
  if (eos->is_number_unsigned()) ids.push_back(eos->get<uint32_t>());
  if (eos->is_array())
    for (const Json& id : *eos)
      if (id.is_number_unsigned()) ids.push_back(id.get<uint32_t>());
  return ids;
}

absl::Status ReadConfig(const std::string& path, ModelInfo* model) {
  BALEEN_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  model->config_hash = absl::StrFormat("%016x", XXH3_64bits(text.data(), text.size()));
  BALEEN_ASSIGN_OR_RETURN(const Json json, ReadJsonFile(path));
  FieldReader fields(json, path + ": ");
  model->vocab_size = static_cast<int>(fields.Int("vocab_size").value_or(0));
  model->max_context = static_cast<int>(fields.Int("max_position_embeddings").value_or(0));
  model->bos = static_cast<uint32_t>(fields.Int("bos_token_id").value_or(0));
  model->eos = EosIds(fields);
  if (model->vocab_size <= 0) fields.Fail("vocab_size", "must be a positive integer");
  if (model->max_context <= 0) fields.Fail("max_position_embeddings", "must be a positive integer");
  return fields.status();
}

absl::Status ReadGenerationConfig(const std::string& path, ModelInfo* model) {
  BALEEN_ASSIGN_OR_RETURN(const Json json, ReadJsonFile(path));
  FieldReader fields(json, path + ": ");
  model->default_temperature =
      static_cast<float>(fields.Number("temperature").value_or(model->default_temperature));
  model->default_top_p = static_cast<float>(fields.Number("top_p").value_or(model->default_top_p));
  if (fields.Bool("do_sample") == false) model->default_temperature = 0;
  for (uint32_t id : EosIds(fields))
    if (!model->IsEos(id)) model->extra_eos.push_back(id);
  if (model->default_temperature < 0) fields.Fail("temperature", "must not be negative");
  if (model->default_top_p <= 0 || model->default_top_p > 1)
    fields.Fail("top_p", "must be in (0, 1]");
  return fields.status();
}

absl::Status ReadTokenizerConfig(const std::string& path, ModelInfo* model) {
  BALEEN_ASSIGN_OR_RETURN(Json json, ReadJsonFile(path));
  for (auto& [name, value] : json.get_ref<Json::object_t&>()) {
    // {"__type": "AddedToken", "content": TOKEN, …}
    if (!value.is_object() || !value.contains("content")) continue;
    Json content = value["content"];
    if (content.is_string()) value = std::move(content);
  }
  model->tokenizer_config = chat::DumpPythonJson(json);  // model_max_length may be 10^30
  return absl::OkStatus();
}

}  // namespace

bool ModelInfo::IsEos(uint32_t token) const {
  return std::find(eos.begin(), eos.end(), token) != eos.end();
}

absl::StatusOr<ModelInfo> ModelInfo::Load(const std::string& directory, const std::string& name) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (directory.empty()) return absl::InvalidArgumentError("model: no checkpoint directory given");
  if (!fs::is_directory(directory, error))
    return absl::NotFoundError(absl::StrCat("model: ", directory, " is not a directory"));
  ModelInfo model;
  model.directory = directory;
  model.name = name;
  if (name.empty()) {
    const fs::path canonical = fs::canonical(directory, error);
    model.name = (error ? fs::path(directory) : canonical).filename().string();
  }
  BALEEN_RETURN_IF_ERROR(ReadConfig(directory + "/config.json", &model));
  BALEEN_ASSIGN_OR_RETURN(model.tokenizer,
                          tokenizer::Tokenizer::Load(directory + "/tokenizer.json"));
  if (fs::exists(directory + "/generation_config.json", error))
    BALEEN_RETURN_IF_ERROR(ReadGenerationConfig(directory + "/generation_config.json", &model));
  if (fs::exists(directory + "/tokenizer_config.json", error))
    BALEEN_RETURN_IF_ERROR(ReadTokenizerConfig(directory + "/tokenizer_config.json", &model));
  if (model.eos.empty()) model.eos.push_back(1);
  const std::vector<chat::AddedToken> added = chat::AddedTokensOf(*model.tokenizer);
  model.chat_style = chat::StyleOf(added);
  model.markers = std::make_unique<chat::MarkerTable>(added, model.chat_style);
  return model;
}

}  // namespace baleen::router
