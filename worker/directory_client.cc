#include "worker/directory_client.h"

#include <deque>
#include <utility>

#include "common/clock.h"
#include "common/log.h"
#include "common/mutex.h"
#include "proto/worker.grpc.pb.h"
#include "worker/channel.h"
#include "worker/load_proto.h"
#include "worker/ticker.h"

namespace baleen::worker {
namespace {

using v1::RouterCommand;
using v1::WorkerReport;

// A router that refused this group may take it once another has left, in a rolling upgrade.
constexpr Duration kAfterRefusal = std::chrono::seconds(2);

v1::WorkerState ToProto(State state) {
  switch (state) {
    case State::kStarting:
      return v1::STARTING;
    case State::kReady:
      return v1::READY;
    case State::kDraining:
      return v1::DRAINING;
  }
  return v1::WORKER_STATE_UNSPECIFIED;
}

v1::Registration ToProto(const GroupRegistration& r) {
  v1::Registration proto;
  proto.set_role(r.role == Role::kPrefill ? v1::PREFILL : v1::DECODE);
  proto.set_group(r.group);
  proto.set_group_incarnation(r.incarnation.value);
  for (const MemberInfo& member : r.members) *proto.add_members() = worker::ToProto(member);
  SetFingerprint(r.fingerprint, proto.mutable_fingerprint());
  proto.set_max_context(r.max_context);
  proto.set_pool_tokens(r.pool_tokens);
  proto.set_drafts(r.drafts);
  return proto;
}

// The Register stream to one router, dialled again whenever it ends.
// Threads: On* on gRPC's; Report any thread.
class RouterStream final : public grpc::ClientBidiReactor<WorkerReport, RouterCommand> {
 public:
  RouterStream(std::string router, v1::Registration registration,
               const DirectoryClient::Callbacks& callbacks)
      : router_(std::move(router)),
        registration_(std::move(registration)),
        callbacks_(callbacks),
        stub_(v1::Directory::NewStub(ClusterChannel(router_))) {
    Dial();
  }
  ~RouterStream() override {
    MutexLock lock(mu_);
    closing_ = true;
    if (active_) context_->TryCancel();
    while (active_) done_.Wait(mu_);
  }

  // Sends `load` unless a write is still under way; dials when the stream is gone. `flushed`: the
  // last flush that is done.
  void Report(const v1::LoadReport& load, uint64_t flushed) {
    bool redial = false;
    {
      MutexLock lock(mu_);
      redial = !active_ && !closing_ && SteadyClock().Now() >= dial_after_;
      while (!flushes_.empty() && flushes_.front().own <= flushed) {
        flushed_ = flushes_.front().routers;
        flushes_.pop_front();
      }
      if (writable_ && !writing_) {
        *report_.mutable_load() = load;
        report_.mutable_load()->set_flushed(flushed_);
        writing_ = true;
        StartWrite(&report_);
      }
    }
    if (redial) Dial();
  }

  void OnReadDone(bool ok) override {
    if (ok) {
      Handle(command_);
      StartRead(&command_);
      return;
    }
    {
      MutexLock lock(mu_);
      writable_ = false;
    }
    RemoveHold();
  }
  void OnWriteDone(bool ok) override {
    MutexLock lock(mu_);
    writing_ = false;
  }
  void OnDone(const grpc::Status& status) override {
    MutexLock lock(mu_);
    if (!closing_ && accepted_)
      spdlog::warn("router {} is gone ({}), dialling again", router_, status.error_message());
    active_ = accepted_ = false;
    done_.NotifyAll();
  }

 private:
  void Dial() {
    MutexLock lock(mu_);
    if (active_ || closing_) return;  // another thread was first
    context_ = std::make_unique<grpc::ClientContext>();
    context_->set_wait_for_ready(true);
    report_.Clear();
    *report_.mutable_registration() = registration_;
    flushes_.clear();
    flushed_ = 0;
    active_ = writable_ = writing_ = true;
    stub_->async()->Register(context_.get(), this);
    AddHold();  // Report writes from outside the reactor's callbacks
    StartWrite(&report_);
    StartRead(&command_);
    StartCall();
  }

  void Handle(const RouterCommand& command) {
    if (command.has_accepted()) {
      MutexLock lock(mu_);
      accepted_ = true;
      spdlog::info("registered with router {}", router_);
    }
    if (command.has_rejected()) {
      spdlog::error("router {} refused this group: {}", router_, command.rejected().reason());
      MutexLock lock(mu_);
      dial_after_ = SteadyClock().Now() + kAfterRefusal;
    }
    if (command.has_drain()) callbacks_.drain();
    if (command.has_undrain()) callbacks_.undrain();
    if (command.has_flush_cache()) {
      const uint64_t own = callbacks_.flush_cache();
      MutexLock lock(mu_);
      flushes_.push_back({.routers = command.flush_cache().number(), .own = own});
    }
  }

  // One flush: its number at the router and here.
  struct Flush {
    uint64_t routers;
    uint64_t own;
  };

  const std::string router_;
  const v1::Registration registration_;
  const DirectoryClient::Callbacks& callbacks_;
  const std::unique_ptr<v1::Directory::Stub> stub_;
  RouterCommand command_;
  Mutex mu_;
  CondVar done_;
  std::unique_ptr<grpc::ClientContext> context_ ABSL_GUARDED_BY(mu_);
  WorkerReport report_ ABSL_GUARDED_BY(mu_);
  std::deque<Flush> flushes_ ABSL_GUARDED_BY(mu_);  // not done, in order
  uint64_t flushed_ ABSL_GUARDED_BY(mu_) = 0;       // the router's number of the last one done
  TimePoint dial_after_ ABSL_GUARDED_BY(mu_);
  bool active_ ABSL_GUARDED_BY(mu_) = false;
  bool writable_ ABSL_GUARDED_BY(mu_) = false;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  bool accepted_ ABSL_GUARDED_BY(mu_) = false;
};

class Client final : public DirectoryClient {
 public:
  Client(std::vector<std::string> routers, const GroupRegistration& registration,
         Callbacks callbacks)
      : callbacks_(std::move(callbacks)) {
    for (std::string& router : routers)
      streams_.push_back(
          std::make_unique<RouterStream>(std::move(router), ToProto(registration), callbacks_));
    ticker_ = std::make_unique<Ticker>(std::chrono::milliseconds(100), [this] { Report(); });
  }
  ~Client() override { ticker_.reset(); }

  void SetState(State state) override {
    {
      MutexLock lock(mu_);
      state_ = state;
    }
    Report();
  }

 private:
  void Report() {
    const std::vector<Load> loads = callbacks_.loads();
    const uint64_t flushed = callbacks_.flushed();
    v1::LoadReport report;
    {
      MutexLock lock(mu_);
      report.set_state(ToProto(state_));
    }
    for (size_t i = 0; i < loads.size(); ++i)
      *report.add_members() = worker::ToProto(static_cast<int>(i), loads[i]);
    for (auto& stream : streams_) stream->Report(report, flushed);
  }

  const Callbacks callbacks_;
  Mutex mu_;
  State state_ ABSL_GUARDED_BY(mu_) = State::kStarting;
  std::vector<std::unique_ptr<RouterStream>> streams_;
  std::unique_ptr<Ticker> ticker_;
};

}  // namespace

std::unique_ptr<DirectoryClient> DirectoryClient::Create(std::vector<std::string> routers,
                                                         GroupRegistration registration,
                                                         Callbacks callbacks) {
  return std::make_unique<Client>(std::move(routers), registration, std::move(callbacks));
}

}  // namespace baleen::worker
