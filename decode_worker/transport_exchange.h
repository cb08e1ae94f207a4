#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/dtype.h"
#include "decode_worker/rank_mesh.h"
#include "model/expert_exchange.h"

namespace baleen::decode_worker {

struct TransportExchangeOptions {
  int experts = 0;   // routed experts of the model; rank r holds an equal, consecutive share
  int dim = 0;       // of an activation row
  int topk = 0;      // experts of a row, at most
  int max_rows = 0;  // of one rank's batch
  DType activations = DType::kF32;
};

// ExpertExchange between the ranks of a decode group, over messages.
//
//   Dispatch  one message to each peer: the rows with at least one expert there (each row once, in
//             order), their ids, and the activations: fp8 bytes and scales when `xq` is given, else
//             `x` as it is. What arrived is ordered by source rank, then row.
//   Collect   one message to each peer: the outputs of its (row, expert) pairs that were computed
//             here, in the order of (row, j). The source puts each at its own place, so the sums
//             that follow have one order whatever the number of ranks.
//
// A failure of the mesh cannot be returned through this interface: Dispatch then gives no rows and
// Collect zeros, and the caller of the forward pass asks the mesh before it uses the results.
//
// For backends whose memory is the host's. Everything is allocated by Create. Threads: the step
// thread.
class TransportExchange final : public model::ExpertExchange {
 public:
  // `mesh` must outlive it, and it must outlive the links that carry the mesh's messages: what was
  // sent last may still be on its way out of this object's memory. InvalidArgument: the ranks do
  // not divide the experts.
  static absl::StatusOr<std::unique_ptr<TransportExchange>> Create(
      RankMesh& mesh, const TransportExchangeOptions& options);

  Received Dispatch(const kernels::Matrix& x, const kernels::Quantized& xq, const int32_t* ids,
                    int topk) override;
  kernels::Matrix Collect(const kernels::Matrix& expert_out) override;

 private:
  // Rows of one source among the received ones, and (of our own) where they came from.
  struct Source {
    int first = 0;
    int rows = 0;
  };
  struct FreeAligned {
    void operator()(std::byte* p) const;
  };
  using Memory = std::unique_ptr<std::byte[], FreeAligned>;  // 64-byte aligned, uninitialised
  static Memory Allocate(size_t bytes);

  TransportExchange(RankMesh& mesh, const TransportExchangeOptions& options);
  int Owner(int32_t expert) const { return expert < 0 ? -1 : expert / experts_per_rank_; }
  bool Wanted(const int32_t* row_ids, int rank) const;
  const int32_t* received_ids() const {
    return reinterpret_cast<const int32_t*>(received_ids_.get());
  }
  size_t ScaleBytes() const { return size_t(options_.dim / 128) * sizeof(float); }

  RankMesh::Outgoing PackRows(int peer);
  absl::Status Accept(int source, const RankMesh::Incoming& in);
  absl::Status AppendRows(int source, int rows, const std::byte* ids, const std::byte* data,
                          const std::byte* scales);
  RankMesh::Outgoing PackOutputs(int peer, const kernels::Matrix& expert_out);
  absl::Status Scatter(int peer, const RankMesh::Incoming& in, size_t row_bytes);
  void ScatterOwn(const kernels::Matrix& expert_out, size_t row_bytes);

  RankMesh& mesh_;
  const TransportExchangeOptions options_;
  const int experts_per_rank_;

  // Of the current Dispatch.
  kernels::Matrix x_;
  kernels::Quantized xq_;
  const int32_t* ids_ = nullptr;
  int topk_ = 0;
  size_t row_bytes_ = 0;  // of an activation row on the wire
  std::vector<Source> sources_;
  int received_rows_ = 0;

  const size_t staging_bytes_;           // for one peer
  Memory staging_[2];                    // [parity][size * staging_bytes_]
  Memory received_ids_;                  // i32 [size * max_rows, topk]
  Memory received_x_;                    // [size * max_rows, dim] activations or fp8
  Memory received_scales_;               // f32 [size * max_rows, dim / 128]
  Memory result_;                        // [max_rows * topk, dim] activations
  std::vector<RankMesh::Outgoing> out_;  // [size]
};

}  // namespace baleen::decode_worker
