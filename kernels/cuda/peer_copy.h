#pragma once

#include <cuda_runtime_api.h>

#include <span>

#include "common/peer_memory.h"

namespace baleen::kernels::cuda {

// Copies every piece, in one launch for each kMostPieces of them: cudaMemcpyAsync would take a
// launch a piece. Any alignment; pieces whose ends are multiples of 16 bytes go fastest. Uses at
// most two CTAs an SM, so that steps of the same device run on beside it.
inline constexpr int kMostPieces = 128;
void LaunchPeerCopy(std::span<const PeerMemory::Piece> pieces, cudaStream_t stream);

}  // namespace baleen::kernels::cuda
