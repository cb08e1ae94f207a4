#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include "common/clock.h"
#include "common/mutex.h"
#include "kernels/backend.h"
#include "model/forward.h"
#include "prefill_worker/leader.h"
#include "prefill_worker/pipeline.h"
#include "prefill_worker/stage.h"

namespace baleen::prefill_worker {

// The step thread of one stage: takes the next batch (from the leader's queue on stage 0, from the
// previous stage elsewhere), executes it, and passes it on. While it computes, the previous stage
// is already at the next batch and the transport pushes the pages of the last one.
//
// Threads: owns one; Enqueue and Stop from any.
class StageLoop {
 public:
  struct Parts {
    kernels::Backend& backend;
    model::Forward& forward;
    Stage& stage;
    Pipeline& pipeline;
    Leader* leader = nullptr;  // on stage 0
    bool last = false;
    int hidden_size = 0;
    bool activations_on_device = false;        // ActivationMemory::kind; else in host memory
    std::function<void(absl::Status)> broken;  // a batch that cannot be: the loop has ended; once
  };
  explicit StageLoop(const Parts& parts);
  ~StageLoop();  // Join

  // A batch came from the previous stage.
  void Enqueue(Pipeline::Batch batch) ABSL_LOCKS_EXCLUDED(mu_);
  // The first call needs the pipeline, later ones and the destructor do not.
  void Stop() ABSL_LOCKS_EXCLUDED(mu_);
  // Stop, and waits for the step thread. Enqueue stays legal: what arrives late is not executed.
  void Join();
  // As Join, but false when the step thread does not end within `limit`.
  bool JoinWithin(Duration limit) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Run();
  absl::Status RunUntilStop();
  absl::Status Execute(const Pipeline::Batch& batch);
  std::optional<Pipeline::Batch> Next() ABSL_LOCKS_EXCLUDED(mu_);
  void PassOn(const BatchHeader& header);

  const Parts parts_;
  Mutex mu_;
  CondVar arrived_;
  std::deque<Pipeline::Batch> queue_ ABSL_GUARDED_BY(mu_);
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;  // the step thread is through
  std::thread thread_;
};

}  // namespace baleen::prefill_worker
