// AcceptDrafts, DraftRows, FollowRows (3.8): a thread for each sequence; the time of one launch.
#include "kernels/cuda/check.h"
#include "kernels/cuda/launch.h"

namespace baleen::kernels::cuda {
namespace {

constexpr int kThreads = 128;

__global__ __launch_bounds__(kThreads) void AcceptDraftsKernel(AcceptDraftsParams p) {
  const int s = blockIdx.x * kThreads + threadIdx.x;
  if (s >= p.sequences) return;
  const int first = s * p.per_sequence;
  const int end = first + p.per_sequence;
  for (int r = first; r < end; ++r) p.next_tokens[r] = max(p.chosen[r], 0);
  int last = first;
  while (last + 1 < end && p.rows.sequences[last + 1] != p.rows.empty_sequence &&
         p.chosen[last] == p.tokens[last + 1]) {
    ++last;
  }
  p.last_rows[s] = last;
  p.newest_tokens[s] = p.next_tokens[last];
  p.newest_positions[s] = p.rows.positions[last] + 1;
}

__global__ __launch_bounds__(kThreads) void DraftRowsKernel(DraftRowsParams p) {
  const int s = blockIdx.x * kThreads + threadIdx.x;
  if (s >= p.sequences) return;
  const int32_t last = p.last_rows[s];
  const int32_t position = p.rows.positions[last] + p.ahead;
  const bool empty = p.rows.sequences[last] == p.rows.empty_sequence || position >= p.slots[s];
  p.tokens[s] = max(p.drafts[s], 0);
  p.positions[s] = empty ? 0 : position;
  p.row_sequences[s] = empty ? p.rows.empty_sequence : p.rows.sequences[last];
}

// A thread for each row.
__global__ __launch_bounds__(kThreads) void FollowRowsKernel(FollowRowsParams p) {
  const int row = blockIdx.x * kThreads + threadIdx.x;
  if (row >= p.sequences * p.per_sequence) return;
  const int s = row / p.per_sequence, j = row % p.per_sequence;
  const int32_t from = p.follows[s];
  if (from < 0) return;
  const int32_t position = p.newest_positions[from] + j;
  const bool empty = position >= p.slots[s];
  p.tokens[row] =
      j == 0 ? p.newest_tokens[from] : max(p.drafts[int64_t{j - 1} * p.drafts_stride + from], 0);
  p.positions[row] = empty ? 0 : position;
  p.row_sequences[row] = empty ? p.empty_sequence : s;
  p.sampling[row].position = position + 1;
}

int Blocks(int sequences) { return (sequences + kThreads - 1) / kThreads; }

}  // namespace

void LaunchAcceptDrafts(const AcceptDraftsParams& p, cudaStream_t stream) {
  BALEEN_CHECK(p.rows.rows == p.sequences * p.per_sequence);
  if (p.sequences == 0) return;
  AcceptDraftsKernel<<<Blocks(p.sequences), kThreads, 0, stream>>>(p);
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

void LaunchDraftRows(const DraftRowsParams& p, cudaStream_t stream) {
  if (p.sequences == 0) return;
  DraftRowsKernel<<<Blocks(p.sequences), kThreads, 0, stream>>>(p);
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

void LaunchFollowRows(const FollowRowsParams& p, cudaStream_t stream) {
  if (p.sequences == 0) return;
  FollowRowsKernel<<<Blocks(p.sequences * p.per_sequence), kThreads, 0, stream>>>(p);
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

}  // namespace baleen::kernels::cuda
