#include "router/cluster_view.h"

#include <algorithm>
#include <limits>

namespace baleen::router {

const char* ToString(WorkerRole role) {
  return role == WorkerRole::kPrefill ? "prefill" : "decode";
}

const char* ToString(GroupState state) {
  switch (state) {
    case GroupState::kStarting:
      return "starting";
    case GroupState::kReady:
      return "ready";
    case GroupState::kDraining:
      return "draining";
    case GroupState::kBroken:
      return "broken";
    case GroupState::kSuspect:
      return "suspect";
  }
  return "?";
}

int ClusterView::MaxContext(int own) const {
  int context = own;
  for (const auto* groups : {&prefill, &decode})
    for (const GroupView& g : *groups)
      if (g.identity->max_context > 0) context = std::min(context, g.identity->max_context);
  return context;
}

int64_t ClusterView::MaxPoolTokens() const {
  int64_t largest = 0;
  for (const GroupView& g : decode) largest = std::max(largest, g.identity->PoolRoom());
  int64_t prefill_largest = 0;
  for (const GroupView& g : prefill)
    prefill_largest = std::max(prefill_largest, g.identity->PoolRoom());
  constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();
  return std::min(largest == 0 ? kUnknown : largest,
                  prefill_largest == 0 ? kUnknown : prefill_largest);
}

bool ClusterView::HasReadyPair() const {
  const auto ready = [](const GroupView& g) { return g.state == GroupState::kReady; };
  return std::any_of(prefill.begin(), prefill.end(), ready) &&
         std::any_of(decode.begin(), decode.end(), ready);
}

}  // namespace baleen::router
