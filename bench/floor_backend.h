#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "kernels/backend.h"

namespace baleen {

// What the rows of a step see of their contexts; the ops' params keep it in device memory.
struct StepKeys {
  double rows = 0;
  double seen = 0;      // keys, summed over the rows
  double selected = 0;  // of them by the indexer
  double stored = 0;    // keys, summed over the sequences
};

// Floor of one op, summed over a step.
struct OpFloor {
  std::string op;  // products with their shape
  int calls = 0;
  double seconds = 0;
};

// Passes every op on and, while counting, adds up its floor: the larger of the bytes that must move
// (weights, activations, keys, each read or written once) over the bandwidth and of the products
// over the tensor cores' rate. It is the floor of the ops as they are cut today: fused ones would
// move fewer activations. Every chosen expert counts as one of this process, chosen uniformly.
class FloorBackend final : public kernels::Backend {
 public:
  // `inner` must outlive the result. `bandwidth` in bytes a second.
  FloorBackend(kernels::Backend& inner, double bandwidth) : inner_(inner), bandwidth_(bandwidth) {}

  // From here to StopCounting ops are counted; the step's keys are these.
  void StartCounting(const StepKeys& keys);
  std::vector<OpFloor> StopCounting();  // the largest first

  void Embed(const kernels::EmbedParams& p) override;
  void AddRmsNorm(const kernels::AddRmsNormParams& p) override;
  void Quantize(const kernels::QuantizeParams& p) override;
  void Linear(const kernels::LinearParams& p) override;
  void Rope(const kernels::RopeParams& p) override;
  void LayerNorm(const kernels::LayerNormParams& p) override;
  void Hadamard(const kernels::HadamardParams& p) override;
  void StoreLatent(const kernels::StoreLatentParams& p) override;
  void StoreIndexKeys(const kernels::StoreIndexKeysParams& p) override;
  void ScaleIndexWeights(const kernels::ScaleIndexWeightsParams& p) override;
  void IndexerLogits(const kernels::IndexerLogitsParams& p) override;
  void TopK(const kernels::TopKParams& p) override;
  void HeadLinear(const kernels::HeadLinearParams& p) override;
  void SparseAttention(const kernels::SparseAttentionParams& p) override;
  void Gate(const kernels::GateParams& p) override;
  void SiluMul(const kernels::SiluMulParams& p) override;
  void Experts(const kernels::ExpertsParams& p) override;
  void Combine(const kernels::CombineParams& p) override;
  void GatherRows(const kernels::GatherRowsParams& p) override;
  void Concat(const kernels::ConcatParams& p) override;
  void Sample(const kernels::SampleParams& p) override;
  void AcceptDrafts(const kernels::AcceptDraftsParams& p) override { inner_.AcceptDrafts(p); }
  void DraftRows(const kernels::DraftRowsParams& p) override { inner_.DraftRows(p); }
  void FollowRows(const kernels::FollowRowsParams& p) override { inner_.FollowRows(p); }

  size_t ScratchBytes(const kernels::StepLimits& limits) const override {
    return inner_.ScratchBytes(limits);
  }
  void UseScratch(const kernels::StepLimits& limits, void* memory, size_t bytes) override {
    inner_.UseScratch(limits, memory, bytes);
  }
  Memory memory() const override { return inner_.memory(); }
  void* Allocate(size_t bytes) override { return inner_.Allocate(bytes); }
  void Free(void* p) override { inner_.Free(p); }
  void CopyIn(void* dst, const void* host, size_t bytes) override {
    inner_.CopyIn(dst, host, bytes);
  }
  void CopyOut(void* host, const void* src, size_t bytes) override {
    inner_.CopyOut(host, src, bytes);
  }
  void CopyWithin(void* dst, const void* src, size_t bytes) override {
    inner_.CopyWithin(dst, src, bytes);
  }
  bool can_record() const override { return inner_.can_record(); }
  std::unique_ptr<Recording> Record(absl::FunctionRef<void()> issue) override {
    return inner_.Record(issue);
  }
  void Synchronize() override { inner_.Synchronize(); }
  uint64_t Mark() override { return inner_.Mark(); }
  void WaitFor(uint64_t mark) override { inner_.WaitFor(mark); }
  void* AllocateHost(size_t bytes) override { return inner_.AllocateHost(bytes); }
  void FreeHost(void* p) override { inner_.FreeHost(p); }
  kernels::WeightStorage weight_storage() const override { return inner_.weight_storage(); }
  void MakeCurrent() override { inner_.MakeCurrent(); }
  bool host_memory() const override { return inner_.host_memory(); }
  const char* name() const override { return inner_.name(); }

 private:
  // `rate` 0: no products.
  void Count(absl::string_view op, double bytes, double flop = 0, double rate = 0);
  // The part of the step that a call over `rows` rows is.
  double Part(int rows) const { return keys_.rows > 0 ? rows / keys_.rows : 0; }

  kernels::Backend& inner_;
  const double bandwidth_;
  bool counting_ = false;
  StepKeys keys_;
  std::vector<OpFloor> floors_;
};

}  // namespace baleen
