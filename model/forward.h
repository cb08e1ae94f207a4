#pragma once

#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/expert_exchange.h"
#include "model/shard.h"

namespace baleen::model {

struct ModelConfig;
struct ModelWeights;

// One ragged batch: row r is token tokens[r] at positions[r] of sequence sequences[r]. Prefill
// chunks, decode rows and verify rows differ only in these lists. Rows of one sequence stand
// together, in ascending, gapless positions; all keys before the first of them are already in the
// pages. Host memory; copied by the call.
struct Batch {
  std::span<const int32_t> tokens;      // [rows]; unused by a shard that is not first()
  std::span<const int32_t> positions;   // [rows]
  std::span<const int32_t> sequences;   // [rows], index into the page tables
  std::span<const int32_t> page_table;  // [sequences, page_table_stride] page ids
  int page_table_stride = 0;

  int rows() const { return static_cast<int>(positions.size()); }
};

// Rows whose lists lie in the backend's memory.
struct DeviceRows {
  kernels::RowMap map;
  const int32_t* tokens = nullptr;  // [rows]; unused by a shard that is not first()
  int keys = 0;                     // at least as many as the row with the most has
  // [rows], or empty where only the device knows them; then every row counts as having `keys`.
  std::span<const int32_t> host_positions;
};

struct ForwardOptions {
  Numerics numerics = Numerics::kExact;
  KvLayout layout;  // of this shard (LayoutOf)
  std::byte* pool =
      nullptr;       // page pool in the backend's memory, page-major, page = layout.PageBytes()
  int max_rows = 0;  // of a batch
  int max_sequences = 0;  // of a batch
  int max_head_rows = 0;  // rows of one Logits call
  int max_context = 0;    // tokens of a sequence
  // Rows' indexer scores are computed in groups whose scores fit here; one row's always do.
  size_t score_bytes = size_t{64} << 20;
};

// What `score_bytes` should be: a CPU's caches like small groups, a GPU needs many rows at once to
// be busy.
size_t DefaultScoreBytes(const kernels::Backend& backend);

// The forward pass of one shard of the model (section 3 of docs/model.md).
//
// Owns the activations (planned and allocated by Create; a step allocates nothing). Borrows
// backend, weights, exchange and pool. Threads: the step thread only.
class Forward {
 public:
  // InvalidArgument when the model's sizes or the options cannot be served, naming the field.
  // ResourceExhausted names the bytes wanted. The borrowed objects must outlive the result.
  static absl::StatusOr<std::unique_ptr<Forward>> Create(
      kernels::Backend& backend, const ModelConfig& config, const ModelWeights& weights,
      ExpertExchange& exchange, const Shard& shard, const ForwardOptions& options);
  virtual ~Forward() = default;

  // Bytes of the backend's memory that Create will take for these options, whose pool may still be
  // missing.
  static size_t PlannedBytes(const kernels::Backend& backend, const ModelConfig& config,
                             const Shard& shard, const ForwardOptions& options);

  // The residual stream between pipeline stages: [max_rows, hidden] f32, the unrounded sum of a
  // layer's output and its residual. A shard that is not first() finds its input here; one that is
  // not last() leaves its output here. In the backend's memory.
  virtual kernels::Matrix stream() = 0;

  // Runs the shard's main layers over the rows and writes the caches of them. On the last shard the
  // final norm's output stays available to Head and RunMtp until the next RunMain. No rows are
  // legal and, with MoE layers, still take part in every exchange. Asynchronous, and nothing is
  // read from the host but what the arguments say.
  virtual void RunMain(const DeviceRows& rows) = 0;
  // The same for a batch in host memory.
  virtual void RunMain(const Batch& batch) = 0;

  // Runs the MTP module: tokens[r] is the token at positions[r] + 1, and the hidden state of row r
  // is row hidden_rows[r] of the last RunMain (kMain) or of the last RunMtp (kMtp).  (3.8)
  enum class Hidden : uint8_t { kMain, kMtp };
  virtual void RunMtp(const DeviceRows& rows, Hidden from, const int32_t* hidden_rows) = 0;
  virtual void RunMtp(const Batch& batch, Hidden from, std::span<const int32_t> hidden_rows) = 0;

  // Head logits [count, vocab_size] f32 of the named rows of the last RunMain (kMain) or RunMtp
  // (kMtp), count <= max_head_rows, in the backend's memory, valid until the next call. `rows`: in
  // the backend's memory.
  virtual kernels::Matrix Head(Hidden of, const int32_t* rows, int count) = 0;
  // The same for rows in host memory.
  virtual kernels::Matrix Head(Hidden of, std::span<const int32_t> rows) = 0;
  // The same, copied to host memory, valid until the next call. Waits for the device.
  virtual std::span<const float> Logits(Hidden of, std::span<const int32_t> rows) = 0;

  virtual kernels::Backend& backend() = 0;
  // RunMain, RunMtp and Head may be recorded (Backend::Record): nothing of them happens on the
  // host.
  virtual bool recordable() const = 0;
  // Every rank must bring the same number of rows to a call (ExpertExchange::same_rows).
  virtual bool same_rows() const { return false; }

  // Observes the stream after each main layer (tests against goldens): called with the layer's
  // index and the residual stream [rows, hidden] f32. nullptr switches it off.
  using LayerObserver = void (*)(void* context, int layer, const kernels::Matrix& stream,
                                 const int32_t* selected, int topk);
  virtual void Observe(LayerObserver observer, void* context) = 0;
};

}  // namespace baleen::model
