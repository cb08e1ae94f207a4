#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/expert_window.h"

namespace baleen::kernels::cuda {

// WindowWire::kNccl: an expert exchange whose ranks may be on different machines, by collectives of
// sizes that the host knows, so that calls can be recorded.
//
//   Dispatch  all-gather of ids, rows and scales, one group: every rank gets all rows.
//   Collect   the outputs that are not of this rank's experts become zeros, in `expert_out` itself;
//             then a reduce-scatter adds all ranks' outputs as *integers*. One rank has the bits of
//             a pair and all others have zeros, so the sum is those bits: results equal those of
//             the other exchanges bit for bit, whatever the order of the sum.
//
// A rank sends, and receives, in fp8 (ranks - 1) * rows * (dim + dim / 32 + 4 topk) bytes in
// Dispatch and (ranks - 1) * rows * topk * dim * 2 in Collect. An all-to-all of whole blocks would
// send as many, but between machines a ring crosses each border once for all GPUs of a machine, not
// once for each of them, and needs no memory for the blocks of all ranks
// (docs/decisions/0007-nccl-between-machines.md). Calls of no rows do nothing.
//
// A thread of its own looks after the communicator: it notes errors and calls that do not end
// within the deadline (DeadlineExceeded: NCCL does not know who is missing), and ends the
// communicator, which ends what waits on the device. A recording keeps the communicator's memory,
// so the destructor waits for recordings to end.
//
// `device` is of this rank alone: NCCL refuses two ranks on one GPU. FailedPrecondition: NCCL is
// missing or too old; ResourceExhausted names the bytes wanted; InvalidArgument sizes that cannot
// be. What NCCL allocates for itself is not counted in them.
absl::StatusOr<std::unique_ptr<ExpertWindow>> MakeNcclWindow(int device, cudaStream_t stream,
                                                             const ExpertWindowOptions& options);

// How the host sees where the device is: each mark adds one to *count and stores it to *seen, which
// is host memory. A call begins with a mark and ends with one, so odd is inside of one.
struct WindowMarks {
  uint32_t* count = nullptr;
  volatile uint32_t* seen = nullptr;
};
void LaunchMark(const WindowMarks& marks, cudaStream_t stream);

// A mark, and zeros for the outputs of all experts but this rank's.
struct ClearOthersParams {
  std::byte* out = nullptr;      // [pairs] of out_bytes, a multiple of 16
  const int32_t* ids = nullptr;  // [pairs]
  int pairs = 0;                 // at least 1
  int out_bytes = 0;
  int experts_per_rank = 0;
  int rank = 0;
  WindowMarks marks;
};
void LaunchClearOthers(const ClearOthersParams& p, cudaStream_t stream);

}  // namespace baleen::kernels::cuda
