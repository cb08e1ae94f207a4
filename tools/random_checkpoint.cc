#include "tools/random_checkpoint.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "model/checkpoint/checkpoint_writer.h"
#include "model/checkpoint/random_tensors.h"

namespace baleen::tools {
namespace {

constexpr uint64_t kFileBytes = uint64_t{4} << 30;

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat(path, ": cannot be opened"));
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace

absl::Status WriteRandomCheckpoint(const std::string& config_file, const std::string& directory,
                                   uint64_t seed) {
  BALEEN_ASSIGN_OR_RETURN(const std::string text, ReadFile(config_file));
  BALEEN_ASSIGN_OR_RETURN(const model::ModelConfig config,
                          model::ParseModelConfig(text, config_file));
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  std::ofstream out(absl::StrCat(directory, "/config.json"), std::ios::binary);
  out << text;
  out.close();
  if (!out) return absl::UnavailableError(absl::StrCat(directory, ": cannot be written"));
  model::RandomTensors tensors(config, WholeModel(config, config.has_mtp()), seed);
  return model::WriteCheckpoint(tensors, tensors.names(), directory, kFileBytes);
}

}  // namespace baleen::tools
