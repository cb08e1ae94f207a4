#include "router/grpc/directory_service.h"

#include <deque>
#include <map>
#include <set>

#include "common/log.h"
#include "common/mutex.h"
#include "proto/worker.grpc.pb.h"
#include "router/grpc/grpc_status.h"

namespace baleen::router {
namespace {

GroupState FromProto(v1::WorkerState state) {
  switch (state) {
    case v1::READY:
      return GroupState::kReady;
    case v1::DRAINING:
      return GroupState::kDraining;
    default:  // starting, and states of newer workers
      return GroupState::kStarting;
  }
}

GroupIdentity FromProto(const v1::Registration& r) {
  GroupIdentity identity;
  identity.role = r.role() == v1::DECODE ? WorkerRole::kDecode : WorkerRole::kPrefill;
  identity.name = r.group();
  identity.incarnation = r.group_incarnation();
  for (const v1::Member& m : r.members())
    identity.members.push_back({.index = m.index(),
                                .incarnation = m.incarnation(),
                                .grpc_address = m.grpc_address(),
                                .transport_address = m.transport_address(),
                                .pid = m.pid(),
                                .metrics_address = m.metrics_address()});
  for (const v1::FingerprintField& f : r.fingerprint())
    identity.fingerprint.emplace_back(f.name(), f.value());
  identity.max_context = r.max_context();
  identity.pool_tokens = r.pool_tokens();
  identity.drafts = r.drafts();
  return identity;
}

WorkerDirectory::Report FromProto(const v1::LoadReport& load) {
  WorkerDirectory::Report report;
  report.state = FromProto(load.state());
  report.flushed = load.flushed();
  for (const v1::MemberLoad& m : load.members()) {
    if (m.index() < 0 || m.index() >= load.members_size()) continue;
    report.loads.resize(static_cast<size_t>(load.members_size()));
    report.loads[static_cast<size_t>(m.index())] = {.total_pages = m.total_pages(),
                                                    .free_pages = m.free_pages(),
                                                    .quarantined_pages = m.quarantined_pages(),
                                                    .running = m.running(),
                                                    .waiting = m.waiting(),
                                                    .waiting_tokens = m.waiting_tokens(),
                                                    .ungranted_tokens = m.ungranted_tokens(),
                                                    .transports = m.transports(),
                                                    .accept_length = m.accept_length(),
                                                    .unready = m.unready()};
  }
  return report;
}

class RegisterStream;

class DirectoryServiceImpl final : public DirectoryService, public v1::Directory::CallbackService {
 public:
  explicit DirectoryServiceImpl(WorkerDirectory& directory) : directory_(directory) {}

  grpc::Service* service() override { return this; }
  bool Send(GroupId group, GroupCommand command) override;
  std::optional<uint64_t> FlushCache(GroupId group) override;
  void CloseAll() override;

  grpc::ServerBidiReactor<v1::WorkerReport, v1::RouterCommand>* Register(
      grpc::CallbackServerContext* context) override;

 private:
  friend class RegisterStream;
  bool Broadcast(GroupId group, const v1::RouterCommand& command)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  WorkerDirectory& directory_;
  Mutex mu_;
  uint64_t flushes_ ABSL_GUARDED_BY(mu_) = 0;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  std::set<RegisterStream*> streams_ ABSL_GUARDED_BY(mu_);
};

// One leader's stream. gRPC frees it through OnDone. Reads are one at a time, so the group's id
// needs no lock among them; writes are queued. The service's lock may be held while this one's is
// taken, never the other way round.
class RegisterStream final : public grpc::ServerBidiReactor<v1::WorkerReport, v1::RouterCommand> {
 public:
  RegisterStream(DirectoryServiceImpl& service, std::string peer)
      : service_(service), peer_(std::move(peer)) {}
  void Begin() { StartRead(&report_); }

  bool Send(GroupId group, const v1::RouterCommand& command) {
    MutexLock lock(mu_);
    if (!group_ || *group_ != group || closing_) return false;
    Write(command);
    return true;
  }
  void Close(const grpc::Status& status) {
    MutexLock lock(mu_);
    End(status);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Gone("the stream broke");
    if (report_.has_registration())
      Register(report_.registration());
    else if (report_.has_load())
      Update(report_.load());
    MutexLock lock(mu_);
    if (!closing_) StartRead(&report_);
  }
  void OnWriteDone(bool ok) override {
    MutexLock lock(mu_);
    writing_ = false;
    if (ok && !commands_.empty()) commands_.pop_front();
    if (!ok) commands_.clear();
    Flush();
  }
  void OnCancel() override { Gone("the stream was cancelled"); }
  void OnDone() override {
    {
      MutexLock lock(service_.mu_);
      service_.streams_.erase(this);
    }
    delete this;
  }

 private:
  void Register(const v1::Registration& registration) {
    GroupIdentity identity = FromProto(registration);
    const std::string name = identity.name;
    const char* role = ToString(identity.role);
    const size_t members = identity.members.size();
    absl::StatusOr<GroupId> id = service_.directory_.Register(std::move(identity));
    v1::RouterCommand command;
    if (!id.ok()) {
      spdlog::warn("{} group {} refused: {}", role, name, id.status().ToString());
      command.mutable_rejected()->set_reason(std::string(id.status().message()));
      MutexLock lock(mu_);
      Write(command);
      return End(ToGrpc(id.status()));
    }
    spdlog::info("{} group {} registered from {}: {} process(es)", role, name, peer_, members);
    command.mutable_accepted();
    bool gone = false;
    {
      MutexLock lock(mu_);
      gone = closing_ || group_.has_value();  // a second registration ends the stream
      if (!gone) group_ = *id;
      if (!gone) Write(command);
    }
    if (!gone) return;
    service_.directory_.Disconnect(*id, "the stream ended while registering");
    Gone("registered twice");
  }

  void Update(const v1::LoadReport& load) {
    std::optional<GroupId> group;
    {
      MutexLock lock(mu_);
      group = group_;
    }
    const absl::Status status =
        group ? service_.directory_.Update(*group, FromProto(load))
              : absl::FailedPreconditionError("a load report before the registration");
    if (!status.ok()) Close(ToGrpc(status));
  }

  void Gone(absl::string_view why) {
    std::optional<GroupId> group;
    {
      MutexLock lock(mu_);
      group = std::exchange(group_, std::nullopt);
      commands_.clear();
      End(grpc::Status::OK);
    }
    if (group) service_.directory_.Disconnect(*group, why);
  }

  void Write(const v1::RouterCommand& command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    commands_.push_back(command);
    Flush();
  }
  void End(const grpc::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (closing_) return;
    closing_ = true;
    final_ = status;
    Flush();
  }
  void Flush() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || finished_) return;
    if (!commands_.empty()) {
      writing_ = true;
      StartWrite(&commands_.front());
    } else if (closing_) {
      finished_ = true;
      Finish(final_);
    }
  }

  DirectoryServiceImpl& service_;
  const std::string peer_;
  v1::WorkerReport report_;
  Mutex mu_;
  std::optional<GroupId> group_ ABSL_GUARDED_BY(mu_);
  std::deque<v1::RouterCommand> commands_ ABSL_GUARDED_BY(mu_);
  grpc::Status final_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

grpc::ServerBidiReactor<v1::WorkerReport, v1::RouterCommand>* DirectoryServiceImpl::Register(
    grpc::CallbackServerContext* context) {
  auto* stream = new RegisterStream(*this, context->peer());
  bool closed = false;
  {
    MutexLock lock(mu_);
    streams_.insert(stream);
    closed = closed_;
  }
  if (closed)
    stream->Close(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the router is shutting down"));
  else
    stream->Begin();
  return stream;
}

bool DirectoryServiceImpl::Send(GroupId group, GroupCommand command) {
  v1::RouterCommand message;
  switch (command) {
    case GroupCommand::kDrain:
      message.mutable_drain();
      break;
    case GroupCommand::kUndrain:
      message.mutable_undrain();
      break;
  }
  MutexLock lock(mu_);
  return Broadcast(group, message);
}

std::optional<uint64_t> DirectoryServiceImpl::FlushCache(GroupId group) {
  MutexLock lock(mu_);
  v1::RouterCommand message;
  message.mutable_flush_cache()->set_number(++flushes_);
  if (!Broadcast(group, message)) return std::nullopt;
  return flushes_;
}

// To each stream of the group: one of them may be broken.
bool DirectoryServiceImpl::Broadcast(GroupId group, const v1::RouterCommand& command) {
  bool sent = false;
  for (RegisterStream* stream : streams_) sent |= stream->Send(group, command);
  return sent;
}

void DirectoryServiceImpl::CloseAll() {
  MutexLock lock(mu_);
  closed_ = true;
  for (RegisterStream* stream : streams_)
    stream->Close(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the router is shutting down"));
}

}  // namespace

std::unique_ptr<DirectoryService> DirectoryService::Create(WorkerDirectory& directory) {
  return std::make_unique<DirectoryServiceImpl>(directory);
}

}  // namespace baleen::router
