#pragma once

#include <cuda_runtime_api.h>

#include "kernels/backend.h"

// The launchers: one for each op of kernels/ops.h, in `<family>.cu`. A launcher checks shapes,
// chooses the geometry and launches on `stream`; it allocates nothing, waits for nothing, and
// reads no device memory on the host, so that a step can be captured as a graph. Geometry follows
// from what the params say (rows, heads, strides), never from positions.
//
// `rows == 0` launches nothing. Inputs and outputs are 16-byte aligned.
namespace baleen::kernels::cuda {

// Memory that an op uses while it runs; the next op uses it again. An op finds the counters at zero
// and leaves them so; `data` holds anything.
struct Workspace {
  int32_t* counters = nullptr;
  int counter_count = 0;
  std::byte* data = nullptr;  // 256-byte aligned
  size_t bytes = 0;
};

void LaunchEmbed(const EmbedParams& p, cudaStream_t stream);
void LaunchAddRmsNorm(const AddRmsNormParams& p, cudaStream_t stream);
void LaunchQuantize(const QuantizeParams& p, cudaStream_t stream);
void LaunchRope(const RopeParams& p, cudaStream_t stream);
void LaunchLayerNorm(const LayerNormParams& p, cudaStream_t stream);
void LaunchHadamard(const HadamardParams& p, cudaStream_t stream);
void LaunchStoreLatent(const StoreLatentParams& p, cudaStream_t stream);
void LaunchStoreIndexKeys(const StoreIndexKeysParams& p, cudaStream_t stream);
void LaunchScaleIndexWeights(const ScaleIndexWeightsParams& p, cudaStream_t stream);
void LaunchIndexerLogits(const IndexerLogitsParams& p, cudaStream_t stream);
void LaunchTopK(const TopKParams& p, cudaStream_t stream);
void LaunchGate(const GateParams& p, cudaStream_t stream);
void LaunchSiluMul(const SiluMulParams& p, cudaStream_t stream);
void LaunchCombine(const CombineParams& p, cudaStream_t stream);
void LaunchGatherRows(const GatherRowsParams& p, cudaStream_t stream);
void LaunchConcat(const ConcatParams& p, cudaStream_t stream);
void LaunchSample(const SampleParams& p, cudaStream_t stream);
void LaunchAcceptDrafts(const AcceptDraftsParams& p, cudaStream_t stream);
void LaunchDraftRows(const DraftRowsParams& p, cudaStream_t stream);
void LaunchFollowRows(const FollowRowsParams& p, cudaStream_t stream);

// Ops with scratch: `...Bytes` is what steps within `limits` need of it at most.
size_t LinearBytes(const StepLimits& limits);
void LaunchLinear(const LinearParams& p, Workspace workspace, cudaStream_t stream);
void LaunchHeadLinear(const HeadLinearParams& p, Workspace workspace, cudaStream_t stream);

size_t ExpertsBytes(const StepLimits& limits);
void LaunchExperts(const ExpertsParams& p, Workspace workspace, cudaStream_t stream);

// Needs none; how a row's keys are split follows from `limits`.
void LaunchSparseAttention(const SparseAttentionParams& p, const StepLimits& limits,
                           cudaStream_t stream);

}  // namespace baleen::kernels::cuda
