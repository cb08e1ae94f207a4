#include "prefill_worker/prefill_service.h"

#include <deque>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "proto/worker.grpc.pb.h"
#include "worker/grpc_status.h"

namespace baleen::prefill_worker {
namespace {

// One Prefill call. gRPC frees it through OnDone; the leader holds `Sink`, which outlives it
// safely. Threads: On* on gRPC's, Push/End from the sink's caller.
class PrefillReactor final : public grpc::ServerWriteReactor<v1::PrefillEvent> {
 public:
  class Sink final : public PrefillSink {
   public:
    explicit Sink(PrefillReactor* reactor) : reactor_(reactor) {}
    void Detach() {
      MutexLock lock(mu_);
      reactor_ = nullptr;
    }
    void Started(int cached_tokens) override {
      v1::PrefillEvent event;
      event.mutable_started()->set_cached_tokens(cached_tokens);
      Push(std::move(event));
    }
    void HandedOff() override {
      v1::PrefillEvent event;
      event.mutable_handed_off();
      Push(std::move(event));
    }
    void Finished(absl::Status status) override {
      MutexLock lock(mu_);
      if (reactor_ != nullptr) reactor_->End(worker::ToGrpc(status));
    }

   private:
    void Push(v1::PrefillEvent event) {
      MutexLock lock(mu_);
      if (reactor_ != nullptr) reactor_->Push(std::move(event));
    }
    Mutex mu_;
    PrefillReactor* reactor_ ABSL_GUARDED_BY(mu_);
  };

  PrefillReactor(AttemptId attempt, const std::function<void(AttemptId)>& cancel)
      : attempt_(attempt), cancel_(cancel), sink_(std::make_shared<Sink>(this)) {}
  const std::shared_ptr<Sink>& sink() const { return sink_; }

  void Push(v1::PrefillEvent event) {
    MutexLock lock(mu_);
    pending_.push_back(std::move(event));
    Flush();
  }
  void End(grpc::Status status) {
    MutexLock lock(mu_);
    if (!end_) end_ = std::move(status);
    Flush();
  }
  void OnWriteDone(bool ok) override {
    MutexLock lock(mu_);
    writing_ = false;
    pending_.pop_front();
    if (!ok) pending_.clear();
    Flush();
  }
  void OnCancel() override {
    cancel_(attempt_);
    End(grpc::Status::CANCELLED);
  }
  void OnDone() override {
    sink_->Detach();
    delete this;
  }

 private:
  void Flush() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || finished_) return;
    if (!pending_.empty()) {
      writing_ = true;
      StartWrite(&pending_.front());
    } else if (end_) {
      finished_ = true;
      Finish(*end_);
    }
  }

  const AttemptId attempt_;
  const std::function<void(AttemptId)>& cancel_;
  const std::shared_ptr<Sink> sink_;
  Mutex mu_;
  std::deque<v1::PrefillEvent> pending_ ABSL_GUARDED_BY(mu_);
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

absl::StatusOr<PrefillJob> JobFrom(const v1::PrefillRequest& request, int token_limit) {
  if (request.attempt() == 0) return absl::InvalidArgumentError("attempt: 0");
  if (request.prompt_tokens().empty()) return absl::InvalidArgumentError("prompt_tokens: empty");
  for (uint32_t token : request.prompt_tokens())
    if (token >= static_cast<uint32_t>(token_limit))
      return absl::InvalidArgumentError(
          absl::StrCat("prompt_tokens: ", token, " is not below the vocabulary's ", token_limit));
  return PrefillJob{.attempt = {request.attempt()},
                    .prompt = {request.prompt_tokens().begin(), request.prompt_tokens().end()},
                    .sampling = request.sampling().SerializeAsString(),
                    .decode = {request.decode().incarnation()},
                    .use_cache = !request.sampling().prompt_logprobs()};
}

class PrefillService final : public v1::PrefillWorker::CallbackService {
 public:
  explicit PrefillService(PrefillServiceHooks hooks) : hooks_(std::move(hooks)) {}

  grpc::ServerWriteReactor<v1::PrefillEvent>* Prefill(grpc::CallbackServerContext*,
                                                      const v1::PrefillRequest* request) override {
    auto* reactor = new PrefillReactor(AttemptId{request->attempt()}, hooks_.cancel);
    absl::Status accepted = Submit(*request, reactor->sink());
    if (!accepted.ok()) reactor->End(worker::ToGrpc(accepted));
    return reactor;
  }

 private:
  absl::Status Submit(const v1::PrefillRequest& request, std::shared_ptr<PrefillSink> sink) {
    BALEEN_ASSIGN_OR_RETURN(PrefillJob job, JobFrom(request, hooks_.token_limit));
    return hooks_.submit(std::move(job), std::move(sink));
  }
  const PrefillServiceHooks hooks_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakePrefillService(PrefillServiceHooks hooks) {
  return std::make_unique<PrefillService>(std::move(hooks));
}

}  // namespace baleen::prefill_worker
