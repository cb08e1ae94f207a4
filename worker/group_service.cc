#include <deque>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "proto/worker.grpc.pb.h"
#include "worker/group.h"
#include "worker/grpc_status.h"
#include "worker/load_proto.h"
#include "worker/ticker.h"

namespace baleen::worker {
namespace {

using v1::GroupEvent;
using v1::MemberReport;

class Leader;

// One member's Join stream. gRPC frees it through OnDone; the leader forgets it before that.
// Threads: On* on gRPC's; Push/Close by the leader, any thread.
class JoinStream final : public grpc::ServerBidiReactor<MemberReport, GroupEvent> {
 public:
  explicit JoinStream(Leader& leader) : leader_(leader) { StartRead(&report_); }

  void Push(const GroupEvent& event) {
    MutexLock lock(mu_);
    pending_.push_back(event);
    Flush();
  }
  void Close(grpc::Status status) {
    MutexLock lock(mu_);
    if (!end_) end_ = std::move(status);
    Flush();
  }

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override {
    MutexLock lock(mu_);
    writing_ = false;
    pending_.pop_front();
    if (!ok) pending_.clear();
    Flush();
  }
  void OnCancel() override { Close(grpc::Status::CANCELLED); }
  void OnDone() override;

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

  Leader& leader_;
  MemberReport report_;
  Mutex mu_;
  std::deque<GroupEvent> pending_ ABSL_GUARDED_BY(mu_);
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

class Leader final : public GroupLeader, public v1::Group::CallbackService {
 public:
  Leader(GroupOptions options, GroupCallbacks callbacks)
      : options_(std::move(options)), callbacks_(std::move(callbacks)), loads_(options_.size) {}
  // The gRPC server is shut down by now, so no stream is left.
  ~Leader() override { ticker_.reset(); }

  grpc::Service* service() override { return this; }
  void Start() override {
    FormIfComplete();
    ticker_ = std::make_unique<Ticker>(std::chrono::milliseconds(100), [this] { Tick(); });
  }

  grpc::ServerBidiReactor<MemberReport, GroupEvent>* Join(grpc::CallbackServerContext*) override {
    return new JoinStream(*this);
  }

  void Drain() override {
    Broadcast([](GroupEvent& e) { e.set_drain(true); });
  }
  void Undrain() override {
    Broadcast([](GroupEvent& e) { e.set_undrain(true); });
  }
  void Stop() override {
    {
      MutexLock lock(mu_);
      stopping_ = true;
    }
    Broadcast([](GroupEvent& e) { e.set_stop(true); });
  }
  std::vector<Load> Loads() const override {
    const Load own = callbacks_.load();
    MutexLock lock(mu_);
    std::vector<Load> loads = loads_;
    loads[options_.self.index] = own;
    return loads;
  }

  // The first report of a stream joins; later ones carry loads. An error ends the stream.
  absl::Status OnReport(JoinStream* stream, const MemberReport& report);
  void OnStreamGone(JoinStream* stream);

 private:
  struct Joined {
    JoinStream* stream = nullptr;  // nullptr: gone
    MemberInfo info;
    TimePoint last_seen;
  };

  absl::Status Admit(JoinStream* stream, const MemberReport& report)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FormIfComplete();
  void Break(const absl::Status& why);
  void Tick();
  template <typename Fill>
  void Broadcast(Fill fill) {
    GroupEvent event;
    fill(event);
    MutexLock lock(mu_);
    for (auto& [index, member] : members_)
      if (member.stream != nullptr) member.stream->Push(event);
  }

  const GroupOptions options_;
  const GroupCallbacks callbacks_;
  mutable Mutex mu_;
  std::map<int, Joined> members_ ABSL_GUARDED_BY(mu_);
  std::vector<Load> loads_ ABSL_GUARDED_BY(mu_);
  bool formed_ ABSL_GUARDED_BY(mu_) = false;
  bool broken_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::unique_ptr<Ticker> ticker_;
};

void JoinStream::OnReadDone(bool ok) {
  if (!ok) {
    leader_.OnStreamGone(this);
    return Close(grpc::Status::OK);
  }
  const absl::Status status = leader_.OnReport(this, report_);
  if (!status.ok()) return Close(ToGrpc(status));
  StartRead(&report_);
}

void JoinStream::OnDone() {
  leader_.OnStreamGone(this);
  delete this;
}

absl::Status Leader::OnReport(JoinStream* stream, const MemberReport& report) {
  {
    MutexLock lock(mu_);
    if (report.has_member()) BALEEN_RETURN_IF_ERROR(Admit(stream, report));
    for (auto& [index, member] : members_) {
      if (member.stream != stream) continue;
      member.last_seen = SteadyClock().Now();
      if (report.has_load()) loads_[index] = FromProto(report.load());
    }
  }
  if (report.draining()) callbacks_.drain();
  FormIfComplete();
  return absl::OkStatus();
}

absl::Status Leader::Admit(JoinStream* stream, const MemberReport& report) {
  const MemberInfo info = FromProto(report.member());
  if (info.index <= 0 || info.index >= options_.size)
    return absl::InvalidArgumentError(
        absl::StrCat("worker.index: ", info.index, " in a group of ", options_.size));
  const auto difference =
      FirstDifference(options_.fingerprint, GetFingerprint(report.fingerprint()));
  if (difference)
    return absl::FailedPreconditionError(
        absl::StrCat("member ", info.index, " differs: ", *difference));
  if (members_.count(info.index) > 0)
    return absl::InvalidArgumentError(
        absl::StrCat("worker.index: ", info.index, " has joined already"));
  members_[info.index] = {stream, info, SteadyClock().Now()};
  return absl::OkStatus();
}

void Leader::FormIfComplete() {
  std::vector<MemberInfo> infos = {options_.self};
  {
    MutexLock lock(mu_);
    if (formed_ || static_cast<int>(members_.size()) != options_.size - 1) return;
    formed_ = true;
    // Members report from now on: how long ago they joined says nothing.
    for (auto& [index, member] : members_) {
      member.last_seen = SteadyClock().Now();
      infos.push_back(member.info);
    }
  }
  Broadcast([&](GroupEvent& event) {
    for (const MemberInfo& info : infos) *event.add_members() = ToProto(info);
    event.set_group_incarnation(options_.self.incarnation.value);
  });
  callbacks_.formed(infos, options_.self.incarnation);
}

void Leader::OnStreamGone(JoinStream* stream) {
  absl::Status why;
  {
    MutexLock lock(mu_);
    for (auto it = members_.begin(); it != members_.end(); ++it) {
      if (it->second.stream != stream) continue;
      why = absl::UnavailableError(absl::StrCat("group member ", it->first, " vanished"));
      if (formed_)
        it->second.stream = nullptr;
      else
        members_.erase(it);  // not complete yet: a restarted member may take the place
      break;
    }
    if (why.ok() || !formed_ || stopping_) return;
  }
  Break(why);
}

void Leader::Break(const absl::Status& why) {
  {
    MutexLock lock(mu_);
    if (std::exchange(broken_, true)) return;
  }
  callbacks_.broken(why);
}

void Leader::Tick() {
  absl::Status why;
  {
    MutexLock lock(mu_);
    const TimePoint oldest = SteadyClock().Now() - std::chrono::milliseconds(options_.lease_ms);
    for (const auto& [index, member] : members_)
      if (formed_ && !stopping_ && member.stream != nullptr && member.last_seen < oldest)
        why = absl::UnavailableError(
            absl::StrCat("group member ", index, " silent for ", options_.lease_ms, " ms"));
  }
  if (!why.ok()) Break(why);
}

}  // namespace

std::unique_ptr<GroupLeader> GroupLeader::Create(GroupOptions options, GroupCallbacks callbacks) {
  return std::make_unique<Leader>(std::move(options), std::move(callbacks));
}

}  // namespace baleen::worker
