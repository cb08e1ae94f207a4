#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/fingerprint.h"
#include "common/ids.h"

namespace baleen::router {

// One life (incarnation) of one group at this router; never reused.
using GroupId = StrongId<struct GroupIdTag, uint64_t>;

enum class WorkerRole : uint8_t { kPrefill, kDecode };

// kStarting: registered, not yet serving    kDraining: as the leader reports
// kSuspect: heartbeats missed, no new work; recovers with the next report
enum class GroupState : uint8_t { kStarting, kReady, kDraining, kSuspect };

const char* ToString(WorkerRole role);
const char* ToString(GroupState state);

// One process of a group: a prefill stage or a decode rank.
struct WorkerMember {
  int index = 0;
  uint64_t incarnation = 0;
  std::string grpc_address;
  std::string transport_address;  // opaque bytes
  int pid = 0;
  std::string metrics_address;
};

// What a group says of itself once, at registration.
struct GroupIdentity {
  WorkerRole role = WorkerRole::kPrefill;
  std::string name;
  uint64_t incarnation = 0;
  std::vector<WorkerMember> members;  // by index, at least one
  Fingerprint fingerprint;
  int max_context = 0;      // tokens
  int64_t pool_tokens = 0;  // per member
  int drafts = 0;

  // Tokens of the longest sequence (decode) or prompt (prefill) a member's pool holds beside the
  // slots for drafts, of which prefill needs one less (engine::PrefillPages).
  int64_t PoolRoom() const;
  // A group that did not say how much it holds is taken to hold anything.
  bool Holds(int64_t tokens) const { return pool_tokens <= 0 || tokens <= PoolRoom(); }
};

// As the leader last reported it; see MemberLoad in proto/worker.proto for the meanings.
struct WorkerLoad {
  int total_pages = 0;
  int free_pages = 0;
  int quarantined_pages = 0;
  int running = 0;
  int waiting = 0;
  int64_t waiting_tokens = 0;
  int64_t ungranted_tokens = 0;
  std::string transports;
  double accept_length = 0;
  bool unready = false;
};

// What this router itself has given a member and not yet got back. Exact at once, where reports
// are up to 100 ms old.
struct Assigned {
  int requests = 0;
  int64_t tokens = 0;
};

struct GroupView {
  GroupId id;
  std::shared_ptr<const GroupIdentity> identity;
  GroupState state = GroupState::kStarting;
  std::vector<WorkerLoad> loads;   // by member index
  std::vector<Assigned> assigned;  // by member index; prefill counts all at index 0
  uint64_t flushed = 0;  // the last GroupCommander::FlushCache carried out, and all before it
};

// The cluster at one moment; an immutable value.
struct ClusterView {
  std::vector<GroupView> prefill;
  std::vector<GroupView> decode;

  // The smallest context all groups can serve, at most `own`; tokens.
  int MaxContext(int own) const;
  // The longest sequence, prompt and answer, that any decode group's page pool holds, and the
  // longest prompt that any prefill group's holds; INT64_MAX while none is known.
  int64_t DecodeRoom() const;
  int64_t PrefillRoom() const;
  // DecodeRoom of the groups that are ready; 0 if none is.
  int64_t ReadyDecodeRoom() const;
  bool HasReadyPair() const;
};

}  // namespace baleen::router
