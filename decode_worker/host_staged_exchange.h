#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/expert_exchange.h"
#include "model/weights.h"

namespace baleen::decode_worker {

// An exchange over host memory for rows that live on a device: copies them out before the inner
// exchange sends them, and what comes back in. Right on any device, and as slow as two trips over
// the bus a layer: for ranks whose devices cannot do it themselves (PeerExchange). Failures are the
// inner exchange's.
//
// Borrows backend and inner exchange. Threads: the step thread.
class HostStagedExchange final : public model::ExpertExchange {
 public:
  struct Options {
    int max_rows = 0;  // of one rank
    int ranks = 1;
    int topk = 0;
    int dim = 0;
    DType activations = DType::kBf16;
    bool fp8 = true;  // rows travel quantised
  };
  // ResourceExhausted names the bytes of device memory that are missing.
  static absl::StatusOr<std::unique_ptr<HostStagedExchange>> Create(kernels::Backend& backend,
                                                                    model::ExpertExchange& inner,
                                                                    const Options& options);

  Received Dispatch(const kernels::Matrix& x, const kernels::Quantized& xq, const int32_t* ids,
                    int topk) override;
  kernels::Matrix Collect(const kernels::Matrix& expert_out) override;

 private:
  HostStagedExchange(kernels::Backend& backend, model::ExpertExchange& inner,
                     const Options& options);
  size_t XBytes(int64_t rows) const;
  size_t ScaleBytes(int64_t rows) const;
  size_t IdBytes(int64_t rows) const;

  kernels::Backend& backend_;
  model::ExpertExchange& inner_;
  const Options options_;
  // Own rows on the host; received rows and results on the device; received outputs on the host.
  std::vector<std::byte> x_, scales_, ids_, outputs_;
  model::DeviceBlock device_x_, device_scales_, device_ids_, device_result_;
};

}  // namespace baleen::decode_worker
