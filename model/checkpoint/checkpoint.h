#pragma once

#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "model/checkpoint/tensor_source.h"

namespace baleen::model {

// The tensors of a directory: model.safetensors.index.json and the files it names, or one
// model.safetensors. Files are opened when a tensor of theirs is first asked for, so a process that
// needs a few layers opens (and needs to have) only their files. Threads: one at a time.
class Checkpoint final : public TensorSource {
 public:
  // NotFound when the directory has neither; InvalidArgument when the index is malformed.
  static absl::StatusOr<Checkpoint> Open(const std::string& directory);

  bool Has(absl::string_view name) const { return file_of_.contains(name); }

  // NotFound names the tensor and the file that lacks it or is missing.
  absl::StatusOr<TensorView> Find(absl::string_view name) override;

 private:
  explicit Checkpoint(std::string directory) : directory_(std::move(directory)) {}
  absl::Status ReadIndex(const std::string& path);
  absl::StatusOr<SafetensorsFile*> OpenFile(const std::string& name);

  std::string directory_;
  absl::flat_hash_map<std::string, std::string> file_of_;  // tensor -> file name
  absl::flat_hash_map<std::string, std::unique_ptr<SafetensorsFile>> open_;
};

}  // namespace baleen::model
