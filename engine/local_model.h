#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/local_engine.h"
#include "model/config.h"
#include "model/forward.h"
#include "model/weights.h"

namespace baleen::engine {

struct LocalModelOptions {
  std::string directory;  // the checkpoint
  Numerics numerics = Numerics::kExact;
  std::string device = "cpu";  // as kernels::GpuOf; a GPU's numerics are kFp8
  int threads = 1;             // of the CPU backend
  int drafts = 1;              // 0..3; 0: the MTP module is not loaded
  int chunk_tokens = 512;
  int max_sequences = 64;
  int max_context = 0;  // 0: the checkpoint's
  int pages = 0;        // 0: planned from memory
  bool prefix_cache = true;
  // Which ids have a token, if the tokenizer is known; else all of the head's ids.
  std::optional<model::Vocabulary> vocabulary;
};

// A checkpoint loaded whole into this process, with an engine over it.
//
// Threads: one caller.
class LocalModel {
 public:
  // Errors of the loader, and InvalidArgument for options out of range.
  static absl::StatusOr<std::unique_ptr<LocalModel>> Create(const LocalModelOptions& options);
  ~LocalModel();

  LocalEngine& engine() { return *engine_; }
  const model::ModelConfig& config() const { return config_; }

 private:
  LocalModel() = default;
  absl::Status Load(const LocalModelOptions& options);
  absl::StatusOr<int> MakePool(const LocalModelOptions& options, size_t step_bytes,
                               model::ForwardOptions& forward);

  std::unique_ptr<kernels::Backend> backend_;
  model::ModelConfig config_;
  model::Shard shard_;
  std::unique_ptr<model::ModelWeights> weights_;
  std::unique_ptr<model::ExpertExchange> exchange_;
  model::DeviceBlock pool_;
  std::unique_ptr<model::Forward> forward_;
  std::unique_ptr<LocalEngine> engine_;
};

}  // namespace baleen::engine
