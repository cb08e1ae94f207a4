#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/fingerprint.h"
#include "worker/member.h"

namespace grpc {
class Service;
}

namespace baleen::worker {

// Membership of one process in its worker group. Index 0 is the leader: it serves proto Group;
// every other index dials it. The group is formed once, when all members are there; from then on a
// member that vanishes breaks it for good, and every process of the group ends (one rank's restart
// is the group's restart: there is no half group).
//
// Callbacks come from gRPC threads, never two at once, and must not block.
struct GroupCallbacks {
  // All members, by index. Once.
  std::function<void(std::vector<MemberInfo>, Incarnation group)> formed;
  // A member vanished, or joined with another fingerprint; the status names it. Once; the process
  // should end with it.
  std::function<void(absl::Status)> broken;
  std::function<void()> drain;  // finish what runs, take nothing new
  std::function<void()> undrain;
  std::function<void()> stop;  // members only: the leader is done, end with status 0
  std::function<Load()> load;  // polled every 100 ms; cheap, thread-safe
};

class GroupMembership {
 public:
  virtual ~GroupMembership() = default;

  // Leader: tells all members. Member: asks the leader to drain the whole group (it got SIGTERM).
  virtual void Drain() = 0;
  virtual void Undrain() = 0;  // leader only
  // Leader only: ends all members. Each ends its stream once it has heard, so that a shutdown of
  // the gRPC server with some seconds of grace loses nothing.
  virtual void Stop() = 0;
  // Leader: the latest load of every member, by index, its own included.
  virtual std::vector<Load> Loads() const = 0;
};

struct GroupOptions {
  int size = 1;
  MemberInfo self;
  Fingerprint fingerprint;  // must be the same in every member
  std::string leader;       // host:port; unused by the leader
  int lease_ms = 6000;      // a member silent for this long is gone
};

// Index 0. Register `service()` with the process's gRPC server before it starts; call Start once
// the server listens.
class GroupLeader : public GroupMembership {
 public:
  static std::unique_ptr<GroupLeader> Create(GroupOptions options, GroupCallbacks callbacks);
  virtual grpc::Service* service() = 0;
  virtual void Start() = 0;
};

// The others. Dials until the leader answers; a refused fingerprint or a leader that vanishes is
// reported as broken.
std::unique_ptr<GroupMembership> JoinGroup(GroupOptions options, GroupCallbacks callbacks);

}  // namespace baleen::worker
