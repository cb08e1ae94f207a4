#include "router/placement/placement_round.h"

#include <algorithm>

namespace baleen::router {
namespace {

using Groups = std::vector<GroupView>;

// Groups that could take it, were they not full.
auto Fits(int64_t tokens) {
  return [tokens](const GroupView& g) {
    return g.state == GroupState::kReady && g.identity->Holds(tokens);
  };
}

int64_t AllTokens(const PlacementRequest& request) {
  return request.prompt_tokens + request.max_new_tokens;
}

void Add(Groups& groups, GroupId id, int member, int64_t tokens) {
  for (GroupView& g : groups) {
    if (g.id != id) continue;
    Assigned& assigned = g.assigned[static_cast<size_t>(member)];
    ++assigned.requests;
    assigned.tokens += tokens;
  }
}

}  // namespace

bool PlacementRound::Hopeless(const PlacementRequest& request) const {
  return std::any_of(waiting_.begin(), waiting_.end(), [&](const PlacementRequest& before) {
    return before.prompt_tokens <= request.prompt_tokens && AllTokens(before) <= AllTokens(request);
  });
}

std::optional<Placement> PlacementRound::Next(const PlacementRequest& request, bool keep,
                                              const PolicyInput& input) {
  const auto placement = Place(view_, request, options_, input);
  if (placement) {
    Count(*placement, request);
  } else {
    waiting_.push_back(request);
    if (keep) CloseGroupsOf(request);
  }
  return placement;
}

// The directory counts it a little later.
void PlacementRound::Count(const Placement& placement, const PlacementRequest& request) {
  Add(view_.prefill, placement.prefill, 0, request.prompt_tokens);
  Add(view_.decode, placement.decode, placement.rank, AllTokens(request));
}

void PlacementRound::CloseGroupsOf(const PlacementRequest& request) {
  const auto prefill = Fits(request.prompt_tokens);
  const auto decode = Fits(AllTokens(request));
  if (std::none_of(view_.prefill.begin(), view_.prefill.end(), prefill) ||
      std::none_of(view_.decode.begin(), view_.decode.end(), decode))
    return;
  std::erase_if(view_.prefill, prefill);
  std::erase_if(view_.decode, decode);
}

}  // namespace baleen::router
