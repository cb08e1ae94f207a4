#include "router/worker_directory.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/status_macros.h"

namespace baleen::router {
namespace {

absl::Status CheckIdentity(const GroupIdentity& identity) {
  if (identity.name.empty()) return absl::InvalidArgumentError("group: empty name");
  if (identity.incarnation == 0) return absl::InvalidArgumentError("group_incarnation: 0");
  if (identity.members.empty()) return absl::InvalidArgumentError("members: none");
  for (size_t i = 0; i < identity.members.size(); ++i) {
    const WorkerMember& m = identity.members[i];
    if (m.index != static_cast<int>(i))
      return absl::InvalidArgumentError(absl::StrCat("members: index ", m.index, " at place ", i));
    if (m.grpc_address.empty() && (identity.role == WorkerRole::kDecode || i == 0))
      return absl::InvalidArgumentError(absl::StrCat("members: no grpc_address at ", i));
  }
  return absl::OkStatus();
}

}  // namespace

WorkerDirectory::WorkerDirectory(Options options, Fingerprint own, const Clock& clock)
    : options_(options), own_(std::move(own)), clock_(clock) {}

absl::Status WorkerDirectory::CheckFingerprint(const GroupIdentity& identity) const {
  const std::map<std::string, std::string> theirs(identity.fingerprint.begin(),
                                                  identity.fingerprint.end());
  for (const auto& [name, value] : own_) {
    const auto it = theirs.find(name);
    if (it != theirs.end() && it->second != value)
      return absl::FailedPreconditionError(
          absl::StrCat(name, ": ", value, " at the router, ", it->second, " at the worker"));
  }
  for (const auto& [id, group] : groups_) {
    const GroupIdentity& known = *group.view.identity;
    if (group.gone() || (known.role == identity.role && known.name == identity.name)) continue;
    if (auto difference = FirstDifference(known.fingerprint, identity.fingerprint))
      return absl::FailedPreconditionError(
          absl::StrCat(*difference, " (here: group ", known.name, ")"));
    break;  // all groups are equal among themselves
  }
  return absl::OkStatus();
}

absl::StatusOr<GroupId> WorkerDirectory::Admit(GroupIdentity identity,
                                               std::optional<GroupId>* replaced) {
  BALEEN_RETURN_IF_ERROR(CheckFingerprint(identity));
  auto it = std::find_if(groups_.begin(), groups_.end(), [&](const auto& entry) {
    const GroupIdentity& known = *entry.second.view.identity;
    return known.role == identity.role && known.name == identity.name;
  });
  if (it != groups_.end() && it->second.view.identity->incarnation != identity.incarnation) {
    *replaced = it->first;
    groups_.erase(it);
    it = groups_.end();
  }
  if (it == groups_.end()) it = groups_.emplace(GroupId{next_id_++}, Group()).first;
  Group& group = it->second;
  const size_t members = identity.members.size();
  if (group.view.identity != nullptr && group.view.identity->members.size() != members)
    return absl::InvalidArgumentError("members: another number than before in one incarnation");
  ++group.streams;
  group.last_report = clock_.Now();
  group.view.id = it->first;
  group.view.state = GroupState::kStarting;
  group.view.loads.assign(members, {});
  group.view.assigned.resize(members);  // what runs there is still counted
  group.view.identity = std::make_shared<const GroupIdentity>(std::move(identity));
  view_.reset();
  return it->first;
}

absl::StatusOr<GroupId> WorkerDirectory::Register(GroupIdentity identity) {
  BALEEN_RETURN_IF_ERROR(CheckIdentity(identity));
  std::optional<GroupId> dead;
  GroupId id;
  {
    MutexLock lock(mu_);
    BALEEN_ASSIGN_OR_RETURN(id, Admit(std::move(identity), &dead));
  }
  if (dead && listener_ != nullptr) listener_->OnGroupDead(*dead, "replaced by a new incarnation");
  Changed();
  return id;
}

absl::Status WorkerDirectory::Update(GroupId id, Report report) {
  {
    MutexLock lock(mu_);
    const auto it = groups_.find(id);
    if (it == groups_.end() || it->second.gone())
      return absl::NotFoundError("the registration is no longer current");
    Group& group = it->second;
    group.last_report = clock_.Now();
    group.view.state = report.state;
    group.view.flushed = std::max(group.view.flushed, report.flushed);  // of several streams
    report.loads.resize(group.view.loads.size());
    group.view.loads = std::move(report.loads);
    view_.reset();
  }
  Changed();
  return absl::OkStatus();
}

void WorkerDirectory::Disconnect(GroupId id, absl::string_view why) {
  std::shared_ptr<const GroupIdentity> gone;
  {
    MutexLock lock(mu_);
    const auto it = groups_.find(id);
    if (it == groups_.end() || it->second.gone()) return;
    Group& group = it->second;
    if (--group.streams > 0) return;
    group.last_report = clock_.Now();
    gone = group.view.identity;
    view_.reset();
  }
  spdlog::warn("{} group {} is gone: {}", ToString(gone->role), gone->name, std::string(why));
  Changed();
}

void WorkerDirectory::Tick() {
  std::vector<GroupId> dead;
  {
    MutexLock lock(mu_);
    const TimePoint now = clock_.Now();
    for (auto it = groups_.begin(); it != groups_.end();) {
      Group& group = it->second;
      const Duration silent = now - group.last_report;
      if (silent >= options_.dead_after) {
        spdlog::warn("{} group {} is dead: {}", ToString(group.view.identity->role),
                     group.view.identity->name,
                     group.gone() ? "it did not come back" : "no report");
        dead.push_back(it->first);
        it = groups_.erase(it);
        view_.reset();
        continue;
      }
      if (silent >= options_.suspect_after && group.view.state != GroupState::kSuspect &&
          !group.gone()) {
        spdlog::warn("{} group {} is suspect: no report", ToString(group.view.identity->role),
                     group.view.identity->name);
        group.view.state = GroupState::kSuspect;
        view_.reset();
      }
      ++it;
    }
  }
  if (listener_ == nullptr) return;
  for (const GroupId id : dead) listener_->OnGroupDead(id, "no report");
}

std::shared_ptr<const ClusterView> WorkerDirectory::View() const {
  MutexLock lock(mu_);
  if (view_ == nullptr) {
    auto view = std::make_shared<ClusterView>();
    for (const auto& [id, group] : groups_) {
      if (group.gone()) continue;
      auto& list = group.view.identity->role == WorkerRole::kPrefill ? view->prefill : view->decode;
      list.push_back(group.view);
    }
    view_ = std::move(view);
  }
  return view_;
}

void WorkerDirectory::AddAssigned(GroupId id, int member, int requests, int64_t tokens) {
  MutexLock lock(mu_);
  const auto it = groups_.find(id);
  if (it == groups_.end()) return;
  Assigned& assigned = it->second.view.assigned[static_cast<size_t>(member)];
  assigned.requests += requests;
  assigned.tokens += tokens;
  view_.reset();
}

void WorkerDirectory::Assign(GroupId id, int member, int64_t tokens) {
  AddAssigned(id, member, 1, tokens);
}

void WorkerDirectory::Unassign(GroupId id, int member, int64_t tokens) {
  AddAssigned(id, member, -1, -tokens);
}

void WorkerDirectory::Changed() const {
  if (listener_ != nullptr) listener_->OnClusterChanged();
}

}  // namespace baleen::router
