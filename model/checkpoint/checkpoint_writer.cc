#include "model/checkpoint/checkpoint_writer.h"

#include <fstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace baleen::model {
namespace {

using Json = nlohmann::json;

// Cuts the tensors, in order, into files.
absl::StatusOr<std::vector<std::vector<TensorView>>> Divide(TensorSource& source,
                                                            std::span<const std::string> names,
                                                            uint64_t file_bytes) {
  std::vector<std::vector<TensorView>> files;
  uint64_t used = file_bytes;
  for (const std::string& name : names) {
    BALEEN_ASSIGN_OR_RETURN(const TensorView tensor, source.Find(name));
    if (used + tensor.bytes() > file_bytes) {
      files.emplace_back();
      used = 0;
    }
    files.back().push_back(tensor);
    used += tensor.bytes();
  }
  return files;
}

std::string Header(const std::vector<TensorView>& tensors) {
  Json header;
  uint64_t begin = 0;
  for (const TensorView& t : tensors) {
    header[t.entry->name] = {{"dtype", std::string(FileDTypeName(t.entry->dtype))},
                             {"shape", t.entry->shape},
                             {"data_offsets", {begin, begin + t.bytes()}}};
    begin += t.bytes();
  }
  return header.dump();
}

absl::Status Close(std::ofstream& out, const std::string& path) {
  out.close();
  return out ? absl::OkStatus() : absl::UnavailableError(absl::StrCat(path, ": cannot be written"));
}

absl::Status WriteFile(const std::vector<TensorView>& tensors, const std::string& path) {
  std::ofstream out(path, std::ios::binary);
  const std::string header = Header(tensors);
  const uint64_t length = header.size();  // little-endian, as all hosts we build for
  out.write(reinterpret_cast<const char*>(&length), sizeof(length));
  out << header;
  for (const TensorView& t : tensors) {
    out.write(reinterpret_cast<const char*>(t.data), static_cast<std::streamsize>(t.bytes()));
  }
  return Close(out, path);
}

}  // namespace

absl::Status WriteCheckpoint(TensorSource& source, std::span<const std::string> names,
                             const std::string& directory, uint64_t file_bytes) {
  BALEEN_ASSIGN_OR_RETURN(const auto files, Divide(source, names, file_bytes));
  Json map;
  uint64_t total = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string file = absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, files.size());
    BALEEN_RETURN_IF_ERROR(WriteFile(files[i], absl::StrCat(directory, "/", file)));
    for (const TensorView& t : files[i]) {
      map[t.entry->name] = file;
      total += t.bytes();
    }
  }
  const std::string path = absl::StrCat(directory, "/model.safetensors.index.json");
  std::ofstream out(path, std::ios::binary);
  out << Json{{"metadata", {{"total_size", total}}}, {"weight_map", map}}.dump(1);
  return Close(out, path);
}

}  // namespace baleen::model
