#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/fingerprint.h"
#include "common/kv_layout.h"
#include "common/peer_memory.h"
#include "kv_transfer/link_table.h"
#include "model/sampling.h"
#include "model/shard.h"
#include "worker/wire_pool.h"

namespace baleen::kernels {
class Backend;
}
namespace baleen::model {
class ExpertExchange;
class Forward;
struct ForwardOptions;
struct ModelConfig;
struct ModelWeights;
}  // namespace baleen::model
namespace baleen::v1 {
class WorkerConfig;
}

namespace baleen::worker {

// The plain form of proto WorkerConfig's model part, defaults filled in and checked.
struct ModelOptions {
  std::string directory;
  std::string device;  // as kernels::GpuOf
  Numerics numerics = Numerics::kExact;
  int drafts = 1;              // 0..3; 0: the MTP module is not loaded
  int pages = 0;               // 0: planned from memory
  double memory_fraction = 0;  // of the device's memory, for everything here; 0: the default
  int max_context = 0;         // 0: the checkpoint's
  int cpu_threads = 1;
  std::string peer_memory;  // "cuda_ipc", "ucx", "host"; "": what the device can do

  // May processes map each other's devices? Then experts' rows go that way, too.
  bool MapsPeers() const { return peer_memory.empty() || peer_memory == "cuda_ipc"; }
};
// InvalidArgument names the field.
absl::StatusOr<ModelOptions> ModelOptionsFrom(const v1::WorkerConfig& config);

class ModelHost;

// Of a step's batch; see model::ForwardOptions.
struct ForwardLimits {
  int max_rows = 0;
  int max_sequences = 0;
  int max_head_rows = 0;
  // What the step takes of the backend's memory besides the forward pass. Called with everything
  // of the host known but the pool.
  std::function<size_t(ModelHost&)> step_bytes;
};

// Everything of a process that does not depend on its role: backend, configuration, this shard's
// weights, the page pool's memory, the forward pass. Built in two steps because a decode rank's
// expert exchange needs the group, which needs the pool's address first. Threads: built on main;
// afterwards the backend and the forward belong to the step thread.
class ModelHost {
 public:
  // `split`, `index` of `size` choose the shard: PipelineStage for prefill, ExpertRank for decode.
  //
  // InvalidArgument: a field that cannot be served (named), or a malformed file of the checkpoint.
  // NotFound, Unavailable: a file of it is missing, cannot be read. FailedPrecondition: the device
  // cannot be used (gpu_facts.h), or not as worker.peer_memory wants. ResourceExhausted: too little
  // memory for weights, forward pass and pages; it names the bytes wanted and there.
  enum class Split : uint8_t { kPipelineStage, kExpertRank };
  static absl::StatusOr<std::unique_ptr<ModelHost>> Create(const ModelOptions& options, Split split,
                                                           int index, int size,
                                                           const ForwardLimits& limits);
  ~ModelHost();

  // Builds the forward pass; once. `exchange` must outlive this; nullptr: all experts are here.
  // Errors as model::Forward::Create.
  absl::Status BuildForward(model::ExpertExchange* exchange);

  const ModelOptions& options() const { return options_; }
  const model::ModelConfig& config() const { return *config_; }
  const model::Shard& shard() const { return shard_; }
  const KvLayout& layout() const { return layout_; }              // of this shard
  const KvLayout& whole_layout() const { return whole_layout_; }  // of the whole model
  WirePool& wire_pool() { return *wire_pool_; }  // the page pool as the transport sees it
  kv_transfer::PagePoolView pool_view() const;
  PeerMemory* peer_memory() const { return peer_memory_.get(); }  // the transport's; may be nullptr
  kv_transfer::DeviceWays device_ways() const;                    // the transport's
  // UCX's transports for the configured ones: where a device's pages go by UCX never shared memory,
  // over which a fetch from a process that died does not end.
  std::string TransportsFor(const std::string& configured) const;
  int pages() const { return pages_; }
  const model::Vocabulary& vocabulary() const { return vocabulary_; }
  kernels::Backend& backend() { return *backend_; }
  model::Forward& forward() { return *forward_; }

  // What must be equal in every process of the cluster: protocol, model (config and
  // CheckpointIdentity), tokenizer hash, numerics, layout numbers, page size, drafts, max context,
  // whether pages lie in the device's or in the host's memory for peers. Which way they take from
  // device to device each link finds out.
  const Fingerprint& fingerprint() const { return fingerprint_; }

 private:
  ModelHost();
  absl::Status ChooseShard(Split split, int index, int size);
  absl::Status MakePool();
  absl::Status CanShare() const;
  absl::Status SharePool();
  model::ForwardOptions ForwardOptionsOf() const;
  absl::Status MakeFingerprint();

  ModelOptions options_;
  ForwardLimits limits_;
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<model::ModelConfig> config_;
  model::Shard shard_;
  KvLayout layout_, whole_layout_;
  size_t stage_offset_ = 0;
  std::byte* pool_ = nullptr;                // [pages][layout().PageBytes()]
  std::unique_ptr<PeerMemory> peer_memory_;  // nullptr: pages go by host memory
  std::unique_ptr<WirePool> wire_pool_;
  int pages_ = 0;
  model::Vocabulary vocabulary_;
  Fingerprint fingerprint_;
  std::unique_ptr<model::ModelWeights> weights_;
  std::unique_ptr<model::ExpertExchange> own_exchange_;
  std::unique_ptr<model::Forward> forward_;
};

}  // namespace baleen::worker
