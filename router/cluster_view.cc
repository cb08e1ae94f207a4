#include "router/cluster_view.h"

#include <algorithm>
#include <limits>

namespace baleen::router {
namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();

bool IsReady(const GroupView& group) { return group.state == GroupState::kReady; }

int64_t RoomOf(const GroupView& group) {
  return group.identity->pool_tokens > 0 ? group.identity->PoolRoom() : kUnknown;
}

int64_t LargestRoom(const std::vector<GroupView>& groups) {
  int64_t largest = 0;
  for (const GroupView& g : groups) largest = std::max(largest, RoomOf(g));
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

int64_t ClusterView::ReadyDecodeRoom() const {
  int64_t largest = 0;
  for (const GroupView& g : decode)
    if (IsReady(g)) largest = std::max(largest, RoomOf(g));
  return largest;
}

bool ClusterView::HasReadyPair() const {
  return std::any_of(prefill.begin(), prefill.end(), IsReady) &&
         std::any_of(decode.begin(), decode.end(), IsReady);
}

}  // namespace baleen::router
