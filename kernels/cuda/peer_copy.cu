#include "kernels/cuda/peer_copy.h"

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/check.h"

namespace baleen::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kInFlight = 8;  // loads of a thread
constexpr size_t kBlockBytes = size_t{kThreads} * kInFlight * sizeof(uint4);
constexpr size_t kMostBlocks = 264;  // two for each SM of an H100

struct Pieces {
  PeerMemory::Piece piece[kMostPieces];
};

// Bytes [begin, bytes) one by one, by the threads of the first block.
__device__ void CopyBytes(const PeerMemory::Piece& p, size_t begin) {
  if (blockIdx.x != 0) return;
  for (size_t i = begin + threadIdx.x; i < p.bytes; i += kThreads) p.to[i] = p.from[i];
}

// Grid: (part of the piece, piece). Parts take turns of kBlockBytes.
__global__ __launch_bounds__(kThreads) void PeerCopyKernel(const __grid_constant__ Pieces pieces) {
  const PeerMemory::Piece& p = pieces.piece[blockIdx.y];
  const auto both = reinterpret_cast<uintptr_t>(p.to) | reinterpret_cast<uintptr_t>(p.from);
  if (both % sizeof(uint4) != 0) return CopyBytes(p, 0);
  const auto* const from = reinterpret_cast<const uint4*>(p.from);
  auto* const to = reinterpret_cast<uint4*>(p.to);
  const size_t words = p.bytes / sizeof(uint4);
  constexpr size_t kBlockWords = kBlockBytes / sizeof(uint4);
  for (size_t at = blockIdx.x * kBlockWords + threadIdx.x; at < words;
       at += gridDim.x * kBlockWords) {
    uint4 word[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i)
      if (at + i * kThreads < words) word[i] = __ldcs(from + at + i * kThreads);
#pragma unroll
    for (int i = 0; i < kInFlight; ++i)
      if (at + i * kThreads < words) __stcs(to + at + i * kThreads, word[i]);
  }
  CopyBytes(p, words * sizeof(uint4));
}

}  // namespace

void LaunchPeerCopy(std::span<const PeerMemory::Piece> pieces, cudaStream_t stream) {
  while (!pieces.empty()) {
    const auto these = pieces.first(std::min<size_t>(pieces.size(), kMostPieces));
    pieces = pieces.subspan(these.size());
    Pieces args = {};
    std::copy(these.begin(), these.end(), args.piece);
    size_t most = 1;
    for (const auto& piece : these) most = std::max(most, piece.bytes);
    const size_t parts =
        std::clamp<size_t>(kMostBlocks / these.size(), 1, (most + kBlockBytes - 1) / kBlockBytes);
    PeerCopyKernel<<<dim3(unsigned(parts), unsigned(these.size())), kThreads, 0, stream>>>(args);
    BALEEN_CUDA_CHECK(cudaGetLastError());
  }
}

}  // namespace baleen::kernels::cuda
