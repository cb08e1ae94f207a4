#pragma once

#include <cstdlib>
#include <memory>
#include <optional>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/peer_memory.h"
#include "kernels/expert_window.h"
#include "kernels/ops.h"

namespace baleen::kernels {

// The largest step, from which a backend plans the scratch of its ops. Results may depend on the
// limits, never on how full a step is.
struct StepLimits {
  int rows = 0;         // of a batch
  int expert_rows = 0;  // of one Experts call: rows of all ranks
  int experts = 0;      // of this process
  int experts_per_row = 0;
  int expert_width = 0;  // moe_intermediate_size
  int head_rows = 0;     // of the head's Linear
};

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
  virtual void Sample(const SampleParams& p) = 0;
  virtual void AcceptDrafts(const AcceptDraftsParams& p) = 0;
  virtual void DraftRows(const DraftRowsParams& p) = 0;
  virtual void FollowRows(const FollowRowsParams& p) = 0;

  // Scratch of the ops: the caller plans it, owns it and hands it over before the first op. 0 where
  // a backend manages its own.
  virtual size_t ScratchBytes(const StepLimits& limits) const = 0;
  virtual void UseScratch(const StepLimits& limits, void* memory, size_t bytes) = 0;

  // Of the device, in bytes: all of it, and what is free now. On a CPU the machine's, where pages
  // that are never touched cost nothing: all of it counts as free.
  struct Memory {
    size_t total = 0;
    size_t free = 0;
  };
  virtual Memory memory() const = 0;
  // Memory the ops can use, 64-byte aligned. Start-up and tests only; nullptr when exhausted.
  virtual void* Allocate(size_t bytes) = 0;
  virtual void Free(void* p) = 0;
  // Asynchronous: `host` may be reused, or is filled, after Synchronize. CopyWithin: no overlap.
  virtual void CopyIn(void* dst, const void* host, size_t bytes) = 0;
  virtual void CopyOut(void* host, const void* src, size_t bytes) = 0;
  virtual void CopyWithin(void* dst, const void* src, size_t bytes) = 0;

  // The ops that `issue` calls, with these very operands, to be issued again any number of times
  // for the cost of one. Nothing is computed meanwhile; each op must have run once before. Start-up
  // only, and only where can_record().
  class Recording {
   public:
    virtual ~Recording() = default;
    virtual void Replay() = 0;
  };
  virtual bool can_record() const = 0;
  virtual std::unique_ptr<Recording> Record(absl::FunctionRef<void()> issue) = 0;

  // Blocks until everything issued so far has finished.
  virtual void Synchronize() = 0;
  // The same in two halves: Mark names what was issued so far, WaitFor blocks until that has
  // finished while later operations go on. At most kMarks are out at a time, the oldest is reused.
  static constexpr int kMarks = 8;
  virtual uint64_t Mark() { return 0; }
  virtual void WaitFor(uint64_t) { Synchronize(); }

  // Host memory from and to which copies are asynchronous (from other host memory they may wait for
  // what was issued before); 64-byte aligned. Start-up only; nullptr when exhausted.
  virtual void* AllocateHost(size_t bytes) { return std::aligned_alloc(64, (bytes / 64 + 1) * 64); }
  virtual void FreeHost(void* p) { std::free(p); }  // once no copy of it is under way

  // Pins host memory that begins at a page of the system's and shares none with other pinned
  // memory: copies of it are faster and return at once. False: it could not be, and copies work as
  // before.
  virtual bool PinHost(void* host, size_t bytes) { return true; }
  virtual void UnpinHost(void* host) {}  // what PinHost pinned; any thread

  // What shares its memory with other processes of the machine; nullptr where nothing can.
  virtual std::unique_ptr<PeerMemory> MakePeerMemory() { return nullptr; }
  // An exchange whose calls are ops of this backend; it takes ExpertWindowBytes of its memory.
  // Unimplemented where there is none; FailedPrecondition: the wire's library is missing or too
  // old; else as kernels/expert_window.h says.
  virtual absl::StatusOr<std::unique_ptr<ExpertWindow>> MakeExpertWindow(
      const ExpertWindowOptions&) {
    return absl::UnimplementedError("this backend has no expert exchange of its own");
  }
  virtual size_t ExpertWindowBytes(const ExpertWindowOptions&) const { return 0; }

  // Called on each further thread that issues ops, before its first: a GPU's go to the one that is
  // current there.
  virtual void MakeCurrent() {}

  virtual WeightStorage weight_storage() const = 0;
  virtual bool host_memory() const = 0;  // its memory is the host's: pointers may be dereferenced
  virtual const char* name() const = 0;  // "cpu", "cuda"
};

// `threads` >= 1: how many the ops may use, the caller's included.
std::unique_ptr<Backend> MakeCpuBackend(int threads);

// FailedPrecondition when built without BALEEN_CUDA or when no such device can be used
// (gpu_facts.h); ResourceExhausted when it has no memory left for this process at all.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(int device);

// The GPU that a device's name stands for: "cuda" is the first visible one, "cuda:N" the one after
// N others; nullopt: "cpu". InvalidArgument for another name.
absl::StatusOr<std::optional<int>> GpuOf(absl::string_view device);

// By name, as GpuOf.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(absl::string_view device, int cpu_threads);

}  // namespace baleen::kernels
