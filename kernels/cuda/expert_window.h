#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/expert_window.h"

namespace baleen::kernels::cuda {

inline constexpr int kMaxWindowRanks = 64;

// What windows of every wire have in common: what must be alike in a group, and where their parts
// lie.

// InvalidArgument: sizes that cannot be.
absl::Status CheckWindowOptions(const ExpertWindowOptions& options);

// What must be equal in all windows of a group. What a window exports begins with it, as it lies
// here.
struct WindowShape {
  int32_t wire, rank, ranks, experts, topk, dim, max_rows, activations, fp8, unused;
};
WindowShape ShapeOf(const ExpertWindowOptions& options);
// InvalidArgument unless `exported` is that of rank `rank` of this window's group; what differs is
// named. What follows the shape is in *rest.
absl::Status CheckWindowPeer(const WindowShape& own, absl::string_view exported, int rank,
                             absl::string_view* rest);

// Where the parts of a window lie, the same in all of them.
struct WindowLayout {
  explicit WindowLayout(const ExpertWindowOptions& options);

  // Views of a window that begins at `base`, in a call of `own_rows` of each rank.
  ExpertWindow::Received ReceivedAt(std::byte* base, const ExpertWindowOptions& o,
                                    int own_rows) const;
  Matrix ResultsAt(std::byte* base, const ExpertWindowOptions& o, int own_rows) const;

  // [ranks] each, a cache line apiece; peer memory only. The newest call that the rank has written
  // its part of, and 1 once it makes no more.
  size_t dispatched, collected, gone;
  size_t ids;      // i32 [ranks * max_rows, topk]
  size_t scales;   // f32 [ranks * max_rows, dim / 128]; fp8 only
  size_t x;        // [ranks * max_rows, dim] fp8 or activations
  size_t results;  // [max_rows * topk, dim] activations
  size_t bytes;
};

inline constexpr size_t kFlagBytes = 128;

// What both calls over peer memory need.
struct WindowCall {
  std::byte* window[kMaxWindowRanks];  // by rank; the own one too
  int rank = 0;
  int ranks = 0;
  int experts_per_rank = 0;
  int topk = 0;
  int rows = 0;     // of each rank
  int x_bytes = 0;  // of a row, as the parts below
  int scale_bytes = 0;
  int out_bytes = 0;
  size_t flags = 0;  // of this kind of call, in every window
  size_t gone = 0;   // likewise of both kinds
  size_t ids = 0, scales = 0, x = 0, results = 0;
  // Of this kind of call, in this device's memory: finished CTAs (0 between calls), and the number
  // of calls made.
  uint32_t* finished = nullptr;
  uint32_t* calls = nullptr;
  // Of both kinds of call, in this device's memory: 0, 1 + a missing rank, or kWindowAborted. Once
  // it is not 0, calls do nothing. Kernels touch no memory of the host: one that waits while its
  // process is killed must not fault.
  int32_t* failure = nullptr;
  uint64_t deadline_ns = 0;
};
inline constexpr int32_t kWindowAborted = -1;

// x, scales, ids: the own rows, dense.
void LaunchWindowDispatch(const WindowCall& call, const void* x, const float* scales,
                          const int32_t* ids, cudaStream_t stream);
void LaunchWindowCollect(const WindowCall& call, const void* expert_out, cudaStream_t stream);
// Ends this rank's part for good, and tells the peers. May run beside the other two, once
// LoadWindowAbort was called: loading a kernel may have to wait for those that run.
void LaunchWindowAbort(const WindowCall& call, cudaStream_t stream);
void LoadWindowAbort();

// WindowWire::kPeerMemory, on `stream`. ResourceExhausted names the bytes wanted; InvalidArgument
// sizes that cannot be.
absl::StatusOr<std::unique_ptr<ExpertWindow>> MakePeerWindow(int device, cudaStream_t stream,
                                                             const ExpertWindowOptions& options);

}  // namespace baleen::kernels::cuda
