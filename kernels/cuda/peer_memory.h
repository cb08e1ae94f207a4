#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "absl/status/statusor.h"
#include "common/peer_memory.h"

namespace baleen::kernels::cuda {

// PeerMemory by CUDA IPC: allocations of cudaMalloc, mapped between processes on one machine, whose
// devices may be the same one or have peer access. Any part of an allocation can be exported.
// Copies run on a stream of their own. A device error ends the process.
std::unique_ptr<PeerMemory> MakeCudaPeerMemory(int device);

}  // namespace baleen::kernels::cuda
