// Dispatch and Collect of an expert exchange over peer memory. One CTA copies the parts of a row;
// the last CTA of a call tells the peers and waits for them, so that a call is one launch and needs
// nothing of the host.
#include "kernels/cuda/check.h"
#include "kernels/cuda/expert_window.h"

namespace baleen::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPollsPerLook = 64;  // at the failure, at who has gone, and at the clock

__device__ void StoreRelease(uint32_t* flag, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}

__device__ uint32_t LoadAcquire(const uint32_t* flag) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}

__device__ uint64_t Nanoseconds() {
  uint64_t ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return ns;
}

__device__ uint32_t* Flag(const WindowCall& c, int window, int rank) {
  return reinterpret_cast<uint32_t*>(c.window[window] + c.flags + size_t(rank) * kFlagBytes);
}

__device__ uint32_t* Gone(const WindowCall& c, int window, int rank) {
  return reinterpret_cast<uint32_t*>(c.window[window] + c.gone + size_t(rank) * kFlagBytes);
}

// The first cause stays.
__device__ void Fail(const WindowCall& c, int32_t why) { atomicCAS(c.failure, 0, why); }

__device__ bool Failed(const WindowCall& c) {
  return *static_cast<const volatile int32_t*>(c.failure) != 0;
}

// A rank that goes on without a peer would send the others what it computes without that one's
// rows: it makes no more calls, and says so.
__device__ void TellPeers(const WindowCall& c) {
  for (int peer = threadIdx.x; peer < c.ranks; peer += blockDim.x)
    StoreRelease(Gone(c, peer, c.rank), 1);
}

// Until `rank` has made call number `call`, or nothing is waited for any more.
__device__ void Await(const WindowCall& c, int rank, uint32_t call) {
  const uint32_t* const flag = Flag(c, c.rank, rank);
  const uint32_t* const gone = Gone(c, c.rank, rank);
  const uint64_t start = Nanoseconds();
  for (int polls = 0; int32_t(LoadAcquire(flag) - call) < 0; ++polls) {
    if (polls % kPollsPerLook != 0) continue;
    if (Failed(c)) return;
    if (LoadAcquire(gone) == 0 && Nanoseconds() - start < c.deadline_ns) continue;
    if (int32_t(LoadAcquire(flag) - call) >= 0) return;  // it went after this call
    return Fail(c, rank + 1);
  }
}

// Ends the part of one CTA in a call. All its writes to windows come before the flags that the last
// CTA sets.
__device__ void EndCall(const WindowCall& c) {
  __shared__ bool last;
  __threadfence_system();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(c.finished, 1) == gridDim.x - 1;
  __syncthreads();
  if (!last) return;
  const uint32_t call = *c.calls + 1;
  __syncthreads();
  if (threadIdx.x == 0) {
    *c.finished = 0;
    *c.calls = call;
  }
  __threadfence_system();
  for (int peer = threadIdx.x; peer < c.ranks; peer += kThreads)
    StoreRelease(Flag(c, peer, c.rank), call);
  for (int peer = threadIdx.x; peer < c.ranks; peer += kThreads) Await(c, peer, call);
  __syncthreads();
  if (Failed(c)) TellPeers(c);
}

__device__ int OwnerOf(const WindowCall& c, int32_t expert) {
  const int owner = expert < 0 ? -1 : expert / c.experts_per_rank;
  return owner < c.ranks ? owner : -1;
}

// `bytes` is a multiple of sizeof(Word).
template <typename Word>
__device__ void CopyRow(std::byte* to, const std::byte* from, int bytes) {
  for (int i = threadIdx.x; i < bytes / int(sizeof(Word)); i += kThreads)
    reinterpret_cast<Word*>(to)[i] = reinterpret_cast<const Word*>(from)[i];
}

// One row of x to the windows of `wanted`, a bit for each rank. A word is read once.
__device__ void CopyToWindows(const WindowCall& c, uint64_t wanted, size_t at,
                              const std::byte* from) {
  for (int i = threadIdx.x; i < c.x_bytes / int(sizeof(uint4)); i += kThreads) {
    const uint4 word = reinterpret_cast<const uint4*>(from)[i];
    for (uint64_t left = wanted; left != 0; left &= left - 1) {
      std::byte* const to = c.window[__ffsll(static_cast<long long>(left)) - 1] + at;
      reinterpret_cast<uint4*>(to)[i] = word;
    }
  }
}

// CTA r: row r.
__global__ __launch_bounds__(kThreads) void DispatchKernel(const __grid_constant__ WindowCall c,
                                                           const std::byte* x,
                                                           const std::byte* scales,
                                                           const int32_t* ids) {
  if (Failed(c)) return;
  const int row = blockIdx.x;
  if (row < c.rows) {
    const int32_t* const row_ids = ids + size_t(row) * c.topk;
    uint64_t wanted = 0;
    for (int j = 0; j < c.topk; ++j) {
      const int owner = OwnerOf(c, row_ids[j]);
      if (owner >= 0) wanted |= uint64_t{1} << owner;
    }
    const size_t to = size_t(c.rank) * c.rows + row;
    CopyToWindows(c, wanted, c.x + to * c.x_bytes, x + size_t(row) * c.x_bytes);
    for (int peer = 0; peer < c.ranks; ++peer) {
      const int id_bytes = c.topk * int(sizeof(int32_t));
      CopyRow<int32_t>(c.window[peer] + c.ids + to * id_bytes,
                       reinterpret_cast<const std::byte*>(row_ids), id_bytes);
      if (wanted >> peer & 1)
        CopyRow<float>(c.window[peer] + c.scales + to * c.scale_bytes,
                       scales + size_t(row) * c.scale_bytes, c.scale_bytes);
    }
  }
  EndCall(c);
}

// CTA i: received row i, whose source is rank i / rows.
__global__ __launch_bounds__(kThreads) void CollectKernel(const __grid_constant__ WindowCall c,
                                                          const std::byte* expert_out) {
  if (Failed(c)) return;
  const int received = blockIdx.x;
  if (received < c.ranks * c.rows) {
    const auto* const ids =
        reinterpret_cast<const int32_t*>(c.window[c.rank] + c.ids) + size_t(received) * c.topk;
    std::byte* const results = c.window[received / c.rows] + c.results;
    for (int j = 0; j < c.topk; ++j) {
      if (OwnerOf(c, ids[j]) != c.rank) continue;
      const size_t from = size_t(received) * c.topk + j;
      const size_t to = size_t(received % c.rows) * c.topk + j;
      CopyRow<uint4>(results + to * c.out_bytes, expert_out + from * c.out_bytes, c.out_bytes);
    }
  }
  EndCall(c);
}

__global__ __launch_bounds__(kThreads) void AbortKernel(const __grid_constant__ WindowCall c) {
  if (threadIdx.x == 0) Fail(c, kWindowAborted);
  TellPeers(c);
}

}  // namespace

void LaunchWindowDispatch(const WindowCall& call, const void* x, const float* scales,
                          const int32_t* ids, cudaStream_t stream) {
  DispatchKernel<<<unsigned(max(call.rows, 1)), kThreads, 0, stream>>>(
      call, static_cast<const std::byte*>(x), reinterpret_cast<const std::byte*>(scales), ids);
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

void LaunchWindowCollect(const WindowCall& call, const void* expert_out, cudaStream_t stream) {
  CollectKernel<<<unsigned(max(call.ranks * call.rows, 1)), kThreads, 0, stream>>>(
      call, static_cast<const std::byte*>(expert_out));
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

void LoadWindowAbort() {
  cudaFuncAttributes attributes;
  BALEEN_CUDA_CHECK(cudaFuncGetAttributes(&attributes, AbortKernel));
}

void LaunchWindowAbort(const WindowCall& call, cudaStream_t stream) {
  AbortKernel<<<1, kThreads, 0, stream>>>(call);
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

}  // namespace baleen::kernels::cuda
