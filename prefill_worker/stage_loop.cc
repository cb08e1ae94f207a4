#include "prefill_worker/stage_loop.h"

#include <pthread.h>

#include <utility>

#include "common/check.h"

namespace baleen::prefill_worker {

StageLoop::StageLoop(const Parts& parts)
    : parts_(parts),
      buffers_(kv_transfer::BufferPool::Create(/*keep_bytes=*/256 << 20)),
      thread_([this] { Run(); }) {}

StageLoop::~StageLoop() { Join(); }

void StageLoop::Join() {
  Stop();
  if (thread_.joinable()) thread_.join();
}

void StageLoop::Enqueue(Pipeline::Batch batch) {
  {
    MutexLock lock(mu_);
    queue_.push_back(std::move(batch));
  }
  arrived_.NotifyOne();
}

void StageLoop::Stop() {
  {
    MutexLock lock(mu_);
    stopped_ = true;
  }
  arrived_.NotifyAll();
  if (parts_.leader != nullptr) parts_.leader->Stop();
}

void StageLoop::Run() {
  pthread_setname_np(pthread_self(), "step");
  while (std::optional<Pipeline::Batch> batch = Next()) {
    const BatchHeader& header = batch->header;
    if (!batch->activations.empty()) {
      BALEEN_CHECK(batch->activations.size() ==
                   size_t(header.rows()) * size_t(parts_.hidden_size) * sizeof(float));
      parts_.backend.CopyIn(parts_.forward.stream().data, batch->activations.data(),
                            batch->activations.size());
      parts_.backend.Synchronize();
    }
    parts_.stage.Execute(header);
    if (!parts_.last) PassOn(header);
  }
}

std::optional<Pipeline::Batch> StageLoop::Next() {
  if (parts_.leader != nullptr) {
    std::optional<BatchHeader> header = parts_.leader->NextBatch();
    if (!header) return std::nullopt;
    return Pipeline::Batch{.header = *std::move(header)};
  }
  MutexLock lock(mu_);
  while (queue_.empty() && !stopped_) arrived_.Wait(mu_);
  if (stopped_) return std::nullopt;
  Pipeline::Batch batch = std::move(queue_.front());
  queue_.pop_front();
  return batch;
}

void StageLoop::PassOn(const BatchHeader& header) {
  const size_t bytes = size_t(header.rows()) * size_t(parts_.hidden_size) * sizeof(float);
  kv_transfer::Buffer activations;
  if (bytes > 0) {
    activations = buffers_->Get(bytes);
    parts_.backend.CopyOut(activations.data(), parts_.forward.stream().data, bytes);
    parts_.backend.Synchronize();
  }
  parts_.pipeline.SendBatch(header, std::move(activations));
}

}  // namespace baleen::prefill_worker
