#pragma once

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "decode_worker/rank_mesh.h"
#include "kernels/expert_window.h"
#include "model/expert_exchange.h"

namespace baleen::decode_worker {

// ExpertExchange between ranks whose devices do it among themselves: the calls are operations of
// the backend (kernels/expert_window.h) and the host takes no part in them, so steps are recorded.
//
// Whether every rank came shows in Check, which the caller of the forward pass asks before it uses
// the results. Threads: the step thread; Abort from any.
class PeerExchange final : public model::ExpertExchange {
 public:
  explicit PeerExchange(std::unique_ptr<kernels::ExpertWindow> window)
      : window_(std::move(window)) {}

  // One round on the mesh in which every rank tells where its window is; once, before the first
  // forward pass. What was sent may still be on its way out of this object's memory when it
  // returns, so it must outlive the links. Errors as kernels::ExpertWindow::Connect, the mesh's,
  // and those of Check.
  absl::Status Connect(RankMesh& mesh);

  // Has every rank taken part in the calls so far? As kernels::ExpertWindow::status, but
  // Unavailable where the window cannot tell which rank was missing: then there is a round on the
  // mesh, to which that rank does not come either, and which names it.
  absl::Status Check(RankMesh& mesh) const;

  Received Dispatch(const kernels::Matrix& x, const kernels::Quantized& xq, const int32_t* ids,
                    int topk) override;
  kernels::Matrix Collect(const kernels::Matrix& expert_out) override {
    return window_->Collect(expert_out);
  }
  bool recordable() const override { return true; }
  bool same_rows() const override { return true; }

  void Abort() { window_->Abort(); }  // for a group that is broken: nothing waits any more

 private:
  const std::unique_ptr<kernels::ExpertWindow> window_;
};

}  // namespace baleen::decode_worker
