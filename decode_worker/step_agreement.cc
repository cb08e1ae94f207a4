#include "decode_worker/step_agreement.h"

#include <algorithm>
#include <vector>

#include "common/status_macros.h"

namespace baleen::decode_worker {

StepPlan Merge(std::span<const StepProposal> proposals) {
  StepPlan plan;
  bool all_drained = true, any_exit = false;
  for (const StepProposal& p : proposals) {
    plan.total_sequences += p.sequences;
    plan.most_sequences = std::max(plan.most_sequences, p.sequences);
    all_drained = all_drained && p.drained;
    any_exit = any_exit || p.exit;
  }
  plan.finished = all_drained && any_exit && plan.total_sequences == 0;
  return plan;
}

absl::StatusOr<StepPlan> Agree(RankMesh& mesh, const StepProposal& own) {
  const RankMesh::Outgoing out = {.words = {own.sequences, own.drained, own.exit}};
  const std::vector<RankMesh::Outgoing> to(size_t(mesh.size()), out);
  BALEEN_RETURN_IF_ERROR(mesh.Exchange(RankMesh::Kind::kAgree, to));
  mesh.Flush();
  std::vector<StepProposal> all(size_t(mesh.size()), own);
  for (int peer = 0; peer < mesh.size(); ++peer) {
    if (peer == mesh.rank()) continue;
    const RankMesh::Words& words = mesh.From(peer).words;
    all[size_t(peer)] = {.sequences = words[0], .drained = words[1] != 0, .exit = words[2] != 0};
  }
  return Merge(all);
}

}  // namespace baleen::decode_worker
