#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "router/cluster_view.h"

namespace baleen::router {

// Told of changes; called without the directory's lock, on the thread that caused them.
class DirectoryListener {
 public:
  virtual ~DirectoryListener() = default;
  // Work that waits for a pair may now find one.
  virtual void OnClusterChanged() = 0;
  // The group is taken for dead (silent or gone too long, or replaced by a new life of the same
  // name): whatever runs on it is lost.
  virtual void OnGroupDead(GroupId group, absl::string_view why) = 0;
};

// The groups that registered with this router. Soft state only: a restarted router learns it again
// from the workers.
//
// Threads: any. Register/Report/Disconnect come from the Directory service, Tick from a timer every
// 100 ms, Assign/Unassign from the dispatcher.
class WorkerDirectory {
 public:
  struct Options {
    Duration suspect_after = std::chrono::seconds(1);
    Duration dead_after = std::chrono::seconds(6);
  };
  struct Report {
    GroupState state = GroupState::kStarting;
    std::vector<WorkerLoad> loads;  // by member index
    uint64_t flushed = 0;           // as GroupView's
  };

  // `own`: the fingerprint fields the router knows itself; a group that has a field of the same
  // name must have the same value. `clock` must outlive this.
  WorkerDirectory(Options options, Fingerprint own, const Clock& clock);

  // Set once, before the first Register; nullptr: nobody. Must outlive the last call.
  void SetListener(DirectoryListener* listener) { listener_ = listener; }

  // The leader opened a stream. The same incarnation dialing again keeps its id, even while its
  // former stream is not yet known to be broken. FailedPrecondition names the first fingerprint
  // field that differs from the router's own or from the groups already here; InvalidArgument an
  // unusable registration.
  absl::StatusOr<GroupId> Register(GroupIdentity identity) ABSL_LOCKS_EXCLUDED(mu_);
  // NotFound when the registration is no longer current: the caller closes its stream.
  absl::Status Update(GroupId id, Report report) ABSL_LOCKS_EXCLUDED(mu_);
  // One of the group's streams broke. With the last one it is gone from the view at once. Its
  // running requests are not failed: their own streams say whether they are lost, and if these are
  // silent too the group is dead after `dead_after`.
  void Disconnect(GroupId id, absl::string_view why) ABSL_LOCKS_EXCLUDED(mu_);
  // Ages groups: ready -> suspect -> dead, gone -> dead.
  void Tick() ABSL_LOCKS_EXCLUDED(mu_);

  std::shared_ptr<const ClusterView> View() const ABSL_LOCKS_EXCLUDED(mu_);

  // Counts work given to a member until Unassign with the same arguments. Unknown groups are
  // ignored: they may be gone by then.
  void Assign(GroupId id, int member, int64_t tokens) ABSL_LOCKS_EXCLUDED(mu_);
  void Unassign(GroupId id, int member, int64_t tokens) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Group {
    GroupView view;
    TimePoint last_report;  // of a gone group: when its last stream broke
    int streams = 0;        // 0: gone
    bool gone() const { return streams == 0; }
  };
  absl::Status CheckFingerprint(const GroupIdentity& identity) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // A new life of a name, or a stream more of the life that is here.
  absl::StatusOr<GroupId> Admit(GroupIdentity identity, std::optional<GroupId>* replaced)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AddAssigned(GroupId id, int member, int requests, int64_t tokens) ABSL_LOCKS_EXCLUDED(mu_);
  void Changed() const;

  const Options options_;
  const Fingerprint own_;
  const Clock& clock_;
  DirectoryListener* listener_ = nullptr;
  mutable Mutex mu_;
  uint64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  std::map<GroupId, Group> groups_ ABSL_GUARDED_BY(mu_);
  mutable std::shared_ptr<const ClusterView> view_ ABSL_GUARDED_BY(mu_);  // null: to be made
};

}  // namespace baleen::router
