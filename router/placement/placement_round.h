#pragma once

#include <optional>
#include <vector>

#include "router/placement/placement.h"

namespace baleen::router {

// One pass over the waiting requests, oldest first, at one view of the cluster: who may go now.
//
// A request that finds no pair lets later ones pass, until it asks to `keep`: from then on every
// group it could use is closed to those behind it, unless it waits for a group that is not there
// (no ready one is large enough), which keeping the others would not bring nearer.
class PlacementRound {
 public:
  // `options` must outlive this.
  PlacementRound(ClusterView view, const PlacementOptions& options)
      : options_(options), view_(std::move(view)) {}

  // The request is at least as large as one that found no pair: it finds none either, and has no
  // group to keep that is not kept. So a long queue costs a comparison each.
  bool Hopeless(const PlacementRequest& request) const;
  std::optional<Placement> Next(const PlacementRequest& request, bool keep,
                                const PolicyInput& input);

 private:
  void Count(const Placement& placement, const PlacementRequest& request);
  void CloseGroupsOf(const PlacementRequest& request);

  const PlacementOptions& options_;
  ClusterView view_;                       // with what this round placed, without what is kept
  std::vector<PlacementRequest> waiting_;  // found no pair
};

}  // namespace baleen::router
