#pragma once

#include <cuda_runtime_api.h>

#include "kernels/backend.h"
#include "kernels/cuda/launch.h"

namespace baleen::kernels::cuda {

// One GPU, one stream. Weights keep the checkpoint's bytes (kNative); arithmetic is kFp8's. Every
// op is a launcher of launch.h.
//
// Threads: one caller at a time; each call makes the device current for its thread.
class CudaBackend final : public Backend {
 public:
  // Takes the stream; `device` exists and is Hopper.
  CudaBackend(int device, cudaStream_t stream);
  ~CudaBackend() override;

  void Embed(const EmbedParams& p) override;
  void AddRmsNorm(const AddRmsNormParams& p) override;
  void Quantize(const QuantizeParams& p) override;
  void Linear(const LinearParams& p) override;
  void Rope(const RopeParams& p) override;
  void LayerNorm(const LayerNormParams& p) override;
  void Hadamard(const HadamardParams& p) override;
  void StoreLatent(const StoreLatentParams& p) override;
  void StoreIndexKeys(const StoreIndexKeysParams& p) override;
  void ScaleIndexWeights(const ScaleIndexWeightsParams& p) override;
  void IndexerLogits(const IndexerLogitsParams& p) override;
  void TopK(const TopKParams& p) override;
  void HeadLinear(const HeadLinearParams& p) override;
  void SparseAttention(const SparseAttentionParams& p) override;
  void Gate(const GateParams& p) override;
  void SiluMul(const SiluMulParams& p) override;
  void Experts(const ExpertsParams& p) override;
  void Combine(const CombineParams& p) override;
  void GatherRows(const GatherRowsParams& p) override;
  void Concat(const ConcatParams& p) override;
  void Sample(const SampleParams& p) override;
  void AcceptDrafts(const AcceptDraftsParams& p) override;
  void DraftRows(const DraftRowsParams& p) override;
  void FollowRows(const FollowRowsParams& p) override;

  size_t ScratchBytes(const StepLimits& limits) const override;
  void UseScratch(const StepLimits& limits, void* memory, size_t bytes) override;

  Memory memory() const override;
  void* Allocate(size_t bytes) override;
  void Free(void* p) override;
  void CopyIn(void* dst, const void* host, size_t bytes) override;
  void CopyOut(void* host, const void* src, size_t bytes) override;
  void CopyWithin(void* dst, const void* src, size_t bytes) override;
  bool can_record() const override { return true; }
  std::unique_ptr<Recording> Record(absl::FunctionRef<void()> issue) override;
  void Synchronize() override;
  uint64_t Mark() override;
  void WaitFor(uint64_t mark) override;
  void* AllocateHost(size_t bytes) override;
  void FreeHost(void* p) override;
  bool PinHost(void* host, size_t bytes) override;
  void UnpinHost(void* host) override;
  std::unique_ptr<PeerMemory> MakePeerMemory() override;
  absl::StatusOr<std::unique_ptr<ExpertWindow>> MakeExpertWindow(
      const ExpertWindowOptions& options) override;
  size_t ExpertWindowBytes(const ExpertWindowOptions& options) const override;
  void MakeCurrent() override;
  WeightStorage weight_storage() const override { return WeightStorage::kNative; }
  bool host_memory() const override { return false; }
  const char* name() const override { return "cuda"; }

 private:
  const int device_;
  const cudaStream_t stream_;
  StepLimits limits_;
  Workspace workspace_;
  uint64_t marks_ = 0;
  cudaEvent_t events_[kMarks];  // mark n: event n % kMarks
};

}  // namespace baleen::kernels::cuda
