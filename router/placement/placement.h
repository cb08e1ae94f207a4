#pragma once

#include <memory>
#include <optional>

#include "router/cluster_view.h"
#include "router/placement/policy.h"

namespace baleen::router {

struct PlacementOptions {
  Policy prefill = &LeastLoad;
  Policy decode = &LeastLoad;
  // A member with this many sequences waiting gets no more: they wait in the router's queue, where
  // another member can still take them.
  int max_waiting = 256;
};

struct PlacementRequest {
  int64_t prompt_tokens = 0;
  int64_t max_new_tokens = 0;
  // What failed an earlier attempt and must not be chosen again.
  std::optional<GroupId> excluded_prefill;
  std::optional<GroupId> excluded_decode;
  std::optional<int> excluded_rank;  // only this rank of excluded_decode; absent: all of them
};

struct Placement {
  GroupId prefill;
  GroupId decode;
  int rank = 0;  // of the decode group
  std::shared_ptr<const GroupIdentity> prefill_identity;
  std::shared_ptr<const GroupIdentity> decode_identity;
};

// Tokens of work in front of a new request: what this router gave (exact, at once) or what the
// group reports (includes other routers' work, up to 100 ms old), whichever is more.
int64_t PrefillCost(const GroupView& group);
int64_t DecodeCost(const GroupView& group, int rank);

// A prefill group and a decode rank, chosen together; nullopt while no ready pair can take the
// request. Decode is chosen first, by capacity. Pure.
std::optional<Placement> Place(const ClusterView& view, const PlacementRequest& request,
                               const PlacementOptions& options, const PolicyInput& input);

}  // namespace baleen::router
