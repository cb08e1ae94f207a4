#include "model/checkpoint/identity.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "xxhash.h"

namespace baleen::model {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kHeadBytes = 64 << 10;
constexpr uint64_t kBlockBytes = 4 << 10;
constexpr uint64_t kBlocks = 64;  // of a file, the last at its end

struct FreeState {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};
using State = std::unique_ptr<XXH3_state_t, FreeState>;

absl::Status AddRange(std::ifstream& file, const std::string& path, uint64_t begin, uint64_t bytes,
                      XXH3_state_t* state) {
  std::vector<char> buffer(bytes);
  file.seekg(static_cast<std::streamoff>(begin));
  if (!file.read(buffer.data(), static_cast<std::streamsize>(bytes))) {
    return absl::UnavailableError(
        absl::StrCat(path, ": cannot read bytes ", begin, " to ", begin + bytes));
  }
  XXH3_64bits_update(state, buffer.data(), buffer.size());
  return absl::OkStatus();
}

absl::Status AddFile(const fs::path& path, XXH3_state_t* state) {
  std::error_code error;
  const uint64_t size = fs::file_size(path, error);
  std::ifstream file(path, std::ios::binary);
  if (error || !file)
    return absl::UnavailableError(absl::StrCat(path.string(), ": cannot be read"));
  const std::string head = absl::StrCat(path.filename().string(), " ", size, "\n");
  XXH3_64bits_update(state, head.data(), head.size());
  BALEEN_RETURN_IF_ERROR(AddRange(file, path.string(), 0, std::min(size, kHeadBytes), state));
  const uint64_t block = std::min(size, kBlockBytes);
  for (uint64_t i = 0; i < kBlocks; ++i) {
    const uint64_t begin = (size - block) / (kBlocks - 1) * i;
    BALEEN_RETURN_IF_ERROR(
        AddRange(file, path.string(), i + 1 == kBlocks ? size - block : begin, block, state));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> CheckpointIdentity(const std::string& directory) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (absl::EndsWith(name, ".safetensors") || absl::EndsWith(name, ".safetensors.index.json")) {
      files.push_back(entry.path());
    }
  }
  if (files.empty()) return absl::NotFoundError(absl::StrCat(directory, ": has no weight files"));
  std::sort(files.begin(), files.end());
  const State state(XXH3_createState());
  XXH3_64bits_reset(state.get());
  for (const fs::path& file : files) BALEEN_RETURN_IF_ERROR(AddFile(file, state.get()));
  return absl::StrFormat("%016x", XXH3_64bits_digest(state.get()));
}

}  // namespace baleen::model
