#include <utility>

#include "absl/strings/str_cat.h"
#include "common/mutex.h"
#include "proto/worker.grpc.pb.h"
#include "worker/channel.h"
#include "worker/group.h"
#include "worker/load_proto.h"
#include "worker/ticker.h"

namespace baleen::worker {
namespace {

using v1::GroupEvent;
using v1::MemberReport;

// A member's stream to its leader. Dials until the leader answers; once the group is formed, the
// end of the stream is the end of the group. Threads: On* on gRPC's, Tick on the ticker's, Drain
// any.
class MemberStream final : public GroupMembership,
                           public grpc::ClientBidiReactor<MemberReport, GroupEvent> {
 public:
  MemberStream(GroupOptions options, GroupCallbacks callbacks)
      : options_(std::move(options)),
        callbacks_(std::move(callbacks)),
        stub_(v1::Group::NewStub(ClusterChannel(options_.leader))) {
    Dial();
    ticker_ = std::make_unique<Ticker>(std::chrono::milliseconds(100), [this] { Tick(); });
  }

  ~MemberStream() override {
    ticker_.reset();
    MutexLock lock(mu_);
    closing_ = true;
    if (active_) context_->TryCancel();
    while (active_) done_.Wait(mu_);
  }

  void Drain() override {
    MutexLock lock(mu_);
    draining_ = true;
  }
  void Undrain() override {}
  void Stop() override {}
  std::vector<Load> Loads() const override { return {callbacks_.load()}; }

  void OnReadDone(bool ok) override {
    if (ok) {
      Handle(event_);
      StartRead(&event_);
      return;
    }
    {
      MutexLock lock(mu_);
      writable_ = false;
    }
    RemoveHold();  // no write of the ticker can follow; OnDone may
  }
  void OnWriteDone(bool ok) override {
    MutexLock lock(mu_);
    writing_ = false;
  }
  void OnDone(const grpc::Status& status) override;

 private:
  void Dial() ABSL_LOCKS_EXCLUDED(mu_);
  void Tick();
  void Handle(const GroupEvent& event);
  absl::Status Verdict(const grpc::Status& status) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const GroupOptions options_;
  const GroupCallbacks callbacks_;
  const std::unique_ptr<v1::Group::Stub> stub_;
  GroupEvent event_;
  Mutex mu_;
  CondVar done_;
  std::unique_ptr<grpc::ClientContext> context_ ABSL_GUARDED_BY(mu_);
  MemberReport report_ ABSL_GUARDED_BY(mu_);
  bool active_ ABSL_GUARDED_BY(mu_) = false;
  bool writable_ ABSL_GUARDED_BY(mu_) = false;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  bool formed_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;  // stopped by the leader, or reported as broken
  std::unique_ptr<Ticker> ticker_;
};

void MemberStream::Dial() {
  MutexLock lock(mu_);
  context_ = std::make_unique<grpc::ClientContext>();
  context_->set_wait_for_ready(true);
  report_.Clear();
  *report_.mutable_member() = ToProto(options_.self);
  SetFingerprint(options_.fingerprint, report_.mutable_fingerprint());
  active_ = writable_ = writing_ = true;
  stub_->async()->Join(context_.get(), this);
  AddHold();  // the ticker writes from outside the reactor's callbacks
  StartWrite(&report_);
  StartRead(&event_);
  StartCall();
}

void MemberStream::Tick() {
  const Load load = callbacks_.load();
  bool redial = false;
  {
    MutexLock lock(mu_);
    redial = !active_ && !closing_ && !ended_;
    if (writable_ && formed_ && !writing_) {
      report_.Clear();
      *report_.mutable_load() = ToProto(options_.self.index, load);
      report_.set_draining(draining_);
      writing_ = true;
      StartWrite(&report_);
    }
  }
  if (redial) Dial();
}

void MemberStream::Handle(const GroupEvent& event) {
  if (event.members_size() > 0) {
    {
      MutexLock lock(mu_);
      formed_ = true;
    }
    std::vector<MemberInfo> members;
    for (const v1::Member& member : event.members()) members.push_back(FromProto(member));
    callbacks_.formed(std::move(members), Incarnation{event.group_incarnation()});
  }
  if (event.drain()) callbacks_.drain();
  if (event.undrain()) callbacks_.undrain();
  if (event.stop()) {
    {
      MutexLock lock(mu_);
      ended_ = true;
    }
    callbacks_.stop();
    MutexLock lock(mu_);
    context_->TryCancel();  // so the leader knows that it was heard, and may go
  }
}

absl::Status MemberStream::Verdict(const grpc::Status& status) const {
  if (closing_ || ended_) return absl::OkStatus();
  if (status.error_code() == grpc::StatusCode::FAILED_PRECONDITION ||
      status.error_code() == grpc::StatusCode::INVALID_ARGUMENT)
    return absl::FailedPreconditionError(
        absl::StrCat("leader ", options_.leader, " refused: ", status.error_message()));
  if (formed_)
    return absl::UnavailableError(absl::StrCat("group leader ", options_.leader, " vanished"));
  return absl::OkStatus();  // not formed: dial again
}

void MemberStream::OnDone(const grpc::Status& status) {
  absl::Status why;
  {
    MutexLock lock(mu_);
    why = Verdict(status);
    ended_ = ended_ || !why.ok();
  }
  if (!why.ok()) callbacks_.broken(why);
  MutexLock lock(mu_);
  active_ = false;
  done_.NotifyAll();
}

}  // namespace

std::unique_ptr<GroupMembership> JoinGroup(GroupOptions options, GroupCallbacks callbacks) {
  return std::make_unique<MemberStream>(std::move(options), std::move(callbacks));
}

}  // namespace baleen::worker
