#pragma once

#include <cstdlib>
#include <cstring>

#include "common/check.h"
#include "kernels/backend.h"

namespace baleen::testing {

// The memory of a backend and none of its operations: what loading weights needs. Fails when more
// than `limit` bytes are asked for.
class MemoryBackend : public kernels::Backend {
 public:
  explicit MemoryBackend(kernels::WeightStorage storage = kernels::WeightStorage::kDequantized,
                         size_t limit = size_t{1} << 40, bool host_memory = true)
      : storage_(storage), limit_(limit), host_memory_(host_memory) {}

  size_t ScratchBytes(const kernels::StepLimits&) const override { return 0; }
  void UseScratch(const kernels::StepLimits&, void*, size_t) override {}
  Memory memory() const override { return {limit_, limit_}; }
  void* Allocate(size_t bytes) override {
    return bytes > limit_ ? nullptr : std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  }
  void Free(void* p) override { std::free(p); }
  void CopyIn(void* dst, const void* host, size_t bytes) override { std::memcpy(dst, host, bytes); }
  void CopyOut(void* host, const void* src, size_t bytes) override {
    std::memcpy(host, src, bytes);
  }
  void CopyWithin(void* dst, const void* src, size_t bytes) override {
    std::memcpy(dst, src, bytes);
  }
  bool can_record() const override { return false; }
  std::unique_ptr<Recording> Record(absl::FunctionRef<void()>) override { return nullptr; }
  void Synchronize() override {}
  kernels::WeightStorage weight_storage() const override { return storage_; }
  bool host_memory() const override { return host_memory_; }
  const char* name() const override { return "memory"; }

  void Embed(const kernels::EmbedParams&) override { None(); }
  void AddRmsNorm(const kernels::AddRmsNormParams&) override { None(); }
  void Quantize(const kernels::QuantizeParams&) override { None(); }
  void Linear(const kernels::LinearParams&) override { None(); }
  void Rope(const kernels::RopeParams&) override { None(); }
  void LayerNorm(const kernels::LayerNormParams&) override { None(); }
  void Hadamard(const kernels::HadamardParams&) override { None(); }
  void StoreLatent(const kernels::StoreLatentParams&) override { None(); }
  void StoreIndexKeys(const kernels::StoreIndexKeysParams&) override { None(); }
  void ScaleIndexWeights(const kernels::ScaleIndexWeightsParams&) override { None(); }
  void IndexerLogits(const kernels::IndexerLogitsParams&) override { None(); }
  void TopK(const kernels::TopKParams&) override { None(); }
  void HeadLinear(const kernels::HeadLinearParams&) override { None(); }
  void SparseAttention(const kernels::SparseAttentionParams&) override { None(); }
  void Gate(const kernels::GateParams&) override { None(); }
  void SiluMul(const kernels::SiluMulParams&) override { None(); }
  void Experts(const kernels::ExpertsParams&) override { None(); }
  void Combine(const kernels::CombineParams&) override { None(); }
  void GatherRows(const kernels::GatherRowsParams&) override { None(); }
  void Concat(const kernels::ConcatParams&) override { None(); }
  void Sample(const kernels::SampleParams&) override { None(); }
  void AcceptDrafts(const kernels::AcceptDraftsParams&) override { None(); }
  void DraftRows(const kernels::DraftRowsParams&) override { None(); }
  void FollowRows(const kernels::FollowRowsParams&) override { None(); }

 private:
  static void None() { BALEEN_CHECK_MSG(false, "MemoryBackend has no operations"); }

  const kernels::WeightStorage storage_;
  const size_t limit_;
  const bool host_memory_;
};

}  // namespace baleen::testing
