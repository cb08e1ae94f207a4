#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "common/check.h"
#include "kernels/backend.h"

namespace baleen::testing {

// A backend that can record, as a GPU can, over one that cannot: a recording is the list of its
// operations with their operands. Like a capturing stream it computes nothing meanwhile, and what
// happens on the host while it records is not repeated.
class RecordingBackend final : public kernels::Backend {
 public:
  explicit RecordingBackend(std::unique_ptr<kernels::Backend> inner) : inner_(std::move(inner)) {}

  int replays = 0;

#define BALEEN_RECORDED(op)                        \
  void op(const kernels::op##Params& p) override { \
    Issue([this, p] { inner_->op(p); });           \
  }
  BALEEN_RECORDED(Embed)
  BALEEN_RECORDED(AddRmsNorm)
  BALEEN_RECORDED(Quantize)
  BALEEN_RECORDED(Linear)
  BALEEN_RECORDED(Rope)
  BALEEN_RECORDED(LayerNorm)
  BALEEN_RECORDED(Hadamard)
  BALEEN_RECORDED(StoreLatent)
  BALEEN_RECORDED(StoreIndexKeys)
  BALEEN_RECORDED(ScaleIndexWeights)
  BALEEN_RECORDED(IndexerLogits)
  BALEEN_RECORDED(TopK)
  BALEEN_RECORDED(HeadLinear)
  BALEEN_RECORDED(SparseAttention)
  BALEEN_RECORDED(Gate)
  BALEEN_RECORDED(SiluMul)
  BALEEN_RECORDED(Experts)
  BALEEN_RECORDED(Combine)
  BALEEN_RECORDED(GatherRows)
  BALEEN_RECORDED(Concat)
  BALEEN_RECORDED(Sample)
  BALEEN_RECORDED(AcceptDrafts)
  BALEEN_RECORDED(DraftRows)
  BALEEN_RECORDED(FollowRows)
#undef BALEEN_RECORDED

  bool can_record() const override { return true; }
  std::unique_ptr<Recording> Record(absl::FunctionRef<void()> issue) override {
    auto recording = std::make_unique<OpList>(*this);
    recorded_ = &recording->ops;
    issue();
    recorded_ = nullptr;
    return recording;
  }

  size_t ScratchBytes(const kernels::StepLimits& limits) const override {
    return inner_->ScratchBytes(limits);
  }
  void UseScratch(const kernels::StepLimits& limits, void* memory, size_t bytes) override {
    inner_->UseScratch(limits, memory, bytes);
  }
  Memory memory() const override { return inner_->memory(); }
  void* Allocate(size_t bytes) override { return inner_->Allocate(bytes); }
  void Free(void* p) override { inner_->Free(p); }
  void CopyIn(void* dst, const void* host, size_t bytes) override {
    BALEEN_CHECK_MSG(recorded_ == nullptr, "a recording reads nothing from the host");
    inner_->CopyIn(dst, host, bytes);
  }
  void CopyOut(void* host, const void* src, size_t bytes) override {
    BALEEN_CHECK_MSG(recorded_ == nullptr, "a recording writes nothing to the host");
    inner_->CopyOut(host, src, bytes);
  }
  void CopyWithin(void* dst, const void* src, size_t bytes) override {
    Issue([this, dst, src, bytes] { inner_->CopyWithin(dst, src, bytes); });
  }
  void Synchronize() override {
    BALEEN_CHECK_MSG(recorded_ == nullptr, "a recording does not wait");
    inner_->Synchronize();
  }
  kernels::WeightStorage weight_storage() const override { return inner_->weight_storage(); }
  bool host_memory() const override { return inner_->host_memory(); }
  const char* name() const override { return "recording"; }

 private:
  using Ops = std::vector<std::function<void()>>;
  struct OpList final : Recording {
    explicit OpList(RecordingBackend& backend) : backend(backend) {}
    void Replay() override {
      ++backend.replays;
      for (const auto& op : ops) op();
    }
    RecordingBackend& backend;
    Ops ops;
  };

  void Issue(std::function<void()> op) {
    if (recorded_ == nullptr) return op();
    recorded_->push_back(std::move(op));
  }

  const std::unique_ptr<kernels::Backend> inner_;
  Ops* recorded_ = nullptr;
};

}  // namespace baleen::testing
