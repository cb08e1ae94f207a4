#include "model/checkpoint/checkpoint.h"

#include <filesystem>
#include <fstream>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace baleen::model {
namespace {

using Json = nlohmann::json;

constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr const char* kSingleFile = "model.safetensors";

// Parses an index; `duplicate` becomes the first tensor that weight_map names twice (the JSON
// library would silently keep the last one).
Json ParseIndex(std::istream& in, std::string& duplicate) {
  std::set<std::string> seen;
  std::string section;
  const auto on_event = [&](int depth, Json::parse_event_t event, Json& value) {
    if (event != Json::parse_event_t::key) return true;
    const auto& key = value.get_ref<const std::string&>();
    if (depth == 1) section = key;
    if (depth == 2 && section == "weight_map" && !seen.insert(key).second) duplicate = key;
    return true;
  };
  return Json::parse(in, on_event, /*allow_exceptions=*/false);
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& directory) {
  Checkpoint checkpoint(directory);
  const std::string index = absl::StrCat(directory, "/", kIndexFile);
  if (std::filesystem::exists(index)) {
    BALEEN_RETURN_IF_ERROR(checkpoint.ReadIndex(index));
    return checkpoint;
  }
  if (!std::filesystem::exists(absl::StrCat(directory, "/", kSingleFile))) {
    return absl::NotFoundError(
        absl::StrCat(directory, ": has neither ", kIndexFile, " nor ", kSingleFile));
  }
  BALEEN_ASSIGN_OR_RETURN(SafetensorsFile * file, checkpoint.OpenFile(kSingleFile));
  for (const TensorEntry& tensor : file->tensors()) {
    checkpoint.file_of_.emplace(tensor.name, kSingleFile);
  }
  return checkpoint;
}

absl::Status Checkpoint::ReadIndex(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat(path, ": cannot be opened"));
  std::string duplicate;
  const Json index = ParseIndex(in, duplicate);
  const auto fail = [&](auto... what) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", what...));
  };
  if (!index.is_object()) return fail("is no JSON object");
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) return fail("weight_map is missing");
  if (!duplicate.empty()) return fail("weight_map names tensor ", duplicate, " twice");
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string()) return fail("weight_map: the file of tensor ", tensor, " is no string");
    const auto& name = file.get_ref<const std::string&>();
    if (name.empty() || name.find('/') != std::string::npos) {
      return fail("weight_map: the file of tensor ", tensor, " must be a plain file name");
    }
    file_of_.emplace(tensor, name);
  }
  return absl::OkStatus();
}

absl::StatusOr<SafetensorsFile*> Checkpoint::OpenFile(const std::string& name) {
  auto& file = open_[name];
  if (file == nullptr) {
    BALEEN_ASSIGN_OR_RETURN(file, SafetensorsFile::Open(absl::StrCat(directory_, "/", name)));
  }
  return file.get();
}

absl::StatusOr<TensorView> Checkpoint::Find(absl::string_view name) {
  const auto it = file_of_.find(name);
  if (it == file_of_.end()) {
    return absl::NotFoundError(absl::StrCat(directory_, ": tensor ", name, " is missing"));
  }
  const auto file = OpenFile(it->second);
  if (!file.ok()) {
    return absl::Status(file.status().code(),
                        absl::StrCat(file.status().message(), " (needed for tensor ", name, ")"));
  }
  const TensorEntry* entry = (*file)->Find(name);
  if (entry == nullptr) {
    return absl::NotFoundError(absl::StrCat((*file)->path(), ": tensor ", name,
                                            " is missing, though the index places it here"));
  }
  return TensorView{entry, (*file)->Data(*entry), &(*file)->path()};
}

}  // namespace baleen::model
