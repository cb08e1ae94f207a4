#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/ops.h"

namespace baleen::kernels {

// The one seam between model code and hardware. Model code calls ops and never includes a CUDA
// header. Every op is asynchronous on the backend's stream, takes its scratch from memory reserved
// at start, and cannot fail: bad shapes are a BALEEN_CHECK, a device error ends the process.
//
// Threads: one caller at a time (the step thread).
class Backend {
 public:
  virtual ~Backend() = default;

  virtual void Embed(const EmbedParams& p) = 0;
  virtual void AddRmsNorm(const AddRmsNormParams& p) = 0;
  virtual void Quantize(const QuantizeParams& p) = 0;
  virtual void Linear(const LinearParams& p) = 0;
  virtual void Rope(const RopeParams& p) = 0;
  virtual void LayerNorm(const LayerNormParams& p) = 0;
  virtual void Hadamard(const HadamardParams& p) = 0;
  virtual void StoreLatent(const StoreLatentParams& p) = 0;
  virtual void StoreIndexKeys(const StoreIndexKeysParams& p) = 0;
  virtual void ScaleIndexWeights(const ScaleIndexWeightsParams& p) = 0;
  virtual void IndexerLogits(const IndexerLogitsParams& p) = 0;
  virtual void TopK(const TopKParams& p) = 0;
  virtual void HeadLinear(const HeadLinearParams& p) = 0;
  virtual void SparseAttention(const SparseAttentionParams& p) = 0;
  virtual void Gate(const GateParams& p) = 0;
  virtual void SiluMul(const SiluMulParams& p) = 0;
  virtual void Experts(const ExpertsParams& p) = 0;
  virtual void Combine(const CombineParams& p) = 0;
  virtual void GatherRows(const GatherRowsParams& p) = 0;
  virtual void Concat(const ConcatParams& p) = 0;

  // Memory the ops can use, 64-byte aligned. Start-up and tests only; nullptr when exhausted.
  virtual void* Allocate(size_t bytes) = 0;
  virtual void Free(void* p) = 0;
  virtual void CopyIn(void* dst, const void* host,
                      size_t bytes) = 0;  // async; host may be reused after Synchronize
  virtual void CopyOut(void* host, const void* src, size_t bytes) = 0;  // async

  // Blocks until everything issued so far has finished.
  virtual void Synchronize() = 0;

  virtual WeightStorage weight_storage() const = 0;
  virtual const char* name() const = 0;  // "cpu", "cuda"
};

// `threads` >= 1: how many the ops may use, the caller's included.
std::unique_ptr<Backend> MakeCpuBackend(int threads);

// FailedPrecondition when built without BALEEN_CUDA or when no device is present.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(int device);

}  // namespace baleen::kernels
