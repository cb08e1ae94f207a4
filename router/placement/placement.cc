#include "router/placement/placement.h"

#include <algorithm>

#include "common/kv_layout.h"

namespace baleen::router {
namespace {

struct Candidate {
  const GroupView* group;
  int member;
};

std::optional<Candidate> Choose(const std::vector<Candidate>& candidates,
                                const std::vector<int64_t>& costs, Policy policy,
                                const PolicyInput& input) {
  if (candidates.empty()) return std::nullopt;
  return candidates[policy(costs, input)];
}

}  // namespace

int64_t PrefillCost(const GroupView& group) {
  int64_t reported = 0;
  for (const WorkerLoad& load : group.loads)
    reported = std::max(reported, load.waiting_tokens + load.ungranted_tokens);
  return std::max(reported, group.assigned.front().tokens);
}

int64_t DecodeCost(const GroupView& group, int rank) {
  const WorkerLoad& load = group.loads[static_cast<size_t>(rank)];
  const int64_t used = int64_t{load.total_pages - load.free_pages} * kPageTokens;
  return std::max(used + load.waiting_tokens, group.assigned[static_cast<size_t>(rank)].tokens);
}

std::optional<Placement> Place(const ClusterView& view, const PlacementRequest& request,
                               const PlacementOptions& options, const PolicyInput& input) {
  const int64_t tokens = request.prompt_tokens + request.max_new_tokens;
  std::vector<Candidate> candidates;
  std::vector<int64_t> costs;
  for (const GroupView& g : view.decode) {
    if (g.state != GroupState::kReady) continue;
    if (!g.identity->Holds(tokens)) continue;
    for (int rank = 0; rank < static_cast<int>(g.identity->members.size()); ++rank) {
      if (g.id == request.excluded_decode && request.excluded_rank.value_or(rank) == rank) continue;
      const WorkerLoad& load = g.loads[static_cast<size_t>(rank)];
      if (load.unready || load.waiting >= options.max_waiting) continue;
      candidates.push_back({&g, rank});
      costs.push_back(DecodeCost(g, rank));
    }
  }
  const auto decode = Choose(candidates, costs, options.decode, input);
  if (!decode) return std::nullopt;

  candidates.clear();
  costs.clear();
  for (const GroupView& g : view.prefill) {
    if (g.state != GroupState::kReady || g.id == request.excluded_prefill) continue;
    if (!g.identity->Holds(request.prompt_tokens)) continue;
    if (g.loads.front().waiting >= options.max_waiting) continue;
    candidates.push_back({&g, 0});
    costs.push_back(PrefillCost(g));
  }
  const auto prefill = Choose(candidates, costs, options.prefill, input);
  if (!prefill) return std::nullopt;
  return Placement{.prefill = prefill->group->id,
                   .decode = decode->group->id,
                   .rank = decode->member,
                   .prefill_identity = prefill->group->identity,
                   .decode_identity = decode->group->identity};
}

}  // namespace baleen::router
