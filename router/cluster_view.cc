#include "router/cluster_view.h"

#include <algorithm>
#include <limits>

namespace baleen::router {
namespace {

int64_t LargestRoom(const std::vector<GroupView>& groups) {
  constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();
  int64_t largest = 0;
  for (const GroupView& g : groups)
    largest = std::max(largest, g.identity->pool_tokens > 0 ? g.identity->PoolRoom() : kUnknown);
  return groups.empty() ? kUnknown : largest;
}

}  // namespace

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
    case GroupState::kSuspect:
      return "suspect";
  }
  return "?";
}

int64_t GroupIdentity::PoolRoom() const {
  if (role == WorkerRole::kDecode) return pool_tokens - drafts;
  if (max_context > 0 && pool_tokens >= max_context) return pool_tokens;  // no slots beyond it
  return pool_tokens - std::max(drafts - 1, 0);
}

int ClusterView::MaxContext(int own) const {
  int context = own;
  for (const auto* groups : {&prefill, &decode})
    for (const GroupView& g : *groups)
      if (g.identity->max_context > 0) context = std::min(context, g.identity->max_context);
  return context;
}

int64_t ClusterView::DecodeRoom() const { return LargestRoom(decode); }
int64_t ClusterView::PrefillRoom() const { return LargestRoom(prefill); }

bool ClusterView::HasReadyPair() const {
  const auto ready = [](const GroupView& g) { return g.state == GroupState::kReady; };
  return std::any_of(prefill.begin(), prefill.end(), ready) &&
         std::any_of(decode.begin(), decode.end(), ready);
}

}  // namespace baleen::router
