#pragma once

#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/row_runs.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/thread_pool.h"

namespace baleen::kernels::cpu {

// The reference backend: synchronous, f32 inside, weights dequantised to f32. One file per op or
// small family beside this one; the arithmetic primitives are in simd.h. Scratch only grows, so the
// steady state allocates nothing.
//
// Threads: one caller at a time; ops share their rows with the pool's workers.
class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(int threads) : pool_(threads), scratch_(threads) {}

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

  size_t ScratchBytes(const StepLimits&) const override { return 0; }
  void UseScratch(const StepLimits&, void*, size_t) override {}

  Memory memory() const override;
  void* Allocate(size_t bytes) override;
  void Free(void* p) override;
  void CopyIn(void* dst, const void* host, size_t bytes) override;
  void CopyOut(void* host, const void* src, size_t bytes) override;
  void CopyWithin(void* dst, const void* src, size_t bytes) override;
  bool can_record() const override { return false; }
  std::unique_ptr<Recording> Record(absl::FunctionRef<void()> issue) override;
  void Synchronize() override {}
  WeightStorage weight_storage() const override { return WeightStorage::kDequantized; }
  bool host_memory() const override { return true; }
  const char* name() const override { return "cpu"; }

 private:
  // Runs body(scratch, row) for each row; `cost` is multiply-adds a row.
  template <class Body>
  void ForEachRow(int64_t rows, int64_t cost, const Body& body) {
    pool_.ParallelFor(rows, rows * cost,
                      [&](int worker, int64_t row) { body(scratch_[worker], row); });
  }

  ThreadPool pool_;
  std::vector<Scratch> scratch_;  // one per thread of the pool
  std::vector<RowRun> runs_;      // rows of the current step by sequence
  ScratchBuffer pairs_;           // Experts: (row, j) pairs grouped by expert
};

}  // namespace baleen::kernels::cpu
