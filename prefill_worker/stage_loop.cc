#include "prefill_worker/stage_loop.h"

#include <pthread.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace baleen::prefill_worker {

StageLoop::StageLoop(const Parts& parts) : parts_(parts), thread_([this] { Run(); }) {}

StageLoop::~StageLoop() { Join(); }

void StageLoop::Join() {
  Stop();
  if (thread_.joinable()) thread_.join();
}

bool StageLoop::JoinWithin(Duration limit) {
  Stop();
  {
    const TimePoint deadline = SteadyClock().Now() + limit;
    MutexLock lock(mu_);
    while (!ended_)
      if (!arrived_.WaitUntil(mu_, deadline)) break;
    if (!ended_) return false;
  }
  Join();
  return true;
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
    if (std::exchange(stopped_, true)) return;  // the pipeline may be gone
  }
  arrived_.NotifyAll();
  parts_.pipeline.Stop();
  if (parts_.leader != nullptr) parts_.leader->Stop();
}

void StageLoop::Run() {
  pthread_setname_np(pthread_self(), "step");
  parts_.backend.MakeCurrent();
  const absl::Status status = RunUntilStop();
  if (!status.ok()) parts_.broken(status);
  {
    MutexLock lock(mu_);
    ended_ = true;
  }
  arrived_.NotifyAll();
}

absl::Status StageLoop::RunUntilStop() {
  while (std::optional<Pipeline::Batch> batch = Next()) {
    BALEEN_RETURN_IF_ERROR(Execute(*batch));
    if (!parts_.last) PassOn(batch->header);
  }
  return absl::OkStatus();
}

absl::Status StageLoop::Execute(const Pipeline::Batch& batch) {
  const BatchHeader& header = batch.header;
  BALEEN_RETURN_IF_ERROR(parts_.stage.Check(header));
  const std::span<const std::byte> rows = batch.activations;
  const bool first = parts_.leader != nullptr;
  const size_t want =
      first ? 0 : size_t(header.rows()) * size_t(parts_.hidden_size) * sizeof(float);
  if (rows.size() != want)
    return absl::DataLossError(absl::StrCat("batch ", header.number, ": ", rows.size(),
                                            " bytes of activations, ", header.rows(), " rows need ",
                                            want));
  if (!rows.empty()) {
    void* const stream = parts_.forward.stream().data;
    if (parts_.activations_on_device) {
      parts_.backend.CopyWithin(stream, rows.data(), rows.size());
    } else {
      parts_.backend.CopyIn(stream, rows.data(), rows.size());
    }
    parts_.backend.Synchronize();
    parts_.pipeline.FreeSlot(batch.slot);
  }
  parts_.stage.Execute(header);
  return absl::OkStatus();
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
  if (bytes > 0) {
    std::byte* const outbox = parts_.pipeline.ClaimOutbox();
    if (outbox == nullptr) return;  // the end
    const void* const stream = parts_.forward.stream().data;
    if (parts_.activations_on_device) {
      parts_.backend.CopyWithin(outbox, stream, bytes);
    } else {
      parts_.backend.CopyOut(outbox, stream, bytes);
    }
    parts_.backend.Synchronize();
  }
  parts_.pipeline.SendBatch(header, bytes);
}

}  // namespace baleen::prefill_worker
