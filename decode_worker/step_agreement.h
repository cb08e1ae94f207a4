#pragma once

#include <span>

#include "absl/status/statusor.h"
#include "decode_worker/rank_mesh.h"

namespace baleen::decode_worker {

// What one rank brings to a step.
struct StepProposal {
  int sequences = 0;     // that want to be stepped
  bool drained = false;  // draining, and nothing is left on this rank
  bool exit = false;     // this rank's process was asked to end
};

// What all ranks then know, the same on each.
struct StepPlan {
  int total_sequences = 0;  // 0: nobody has work, there is no step
  int most_sequences = 0;   // of any rank
  bool finished = false;    // every rank is drained and one wants to end: leave the loop
};

// Pure; by rank.
StepPlan Merge(std::span<const StepProposal> proposals);

// One round on the mesh. A rank without work is woken by it (RankMesh::WaitForPeers) and answers.
// When it returns, this rank's word is on its way: the transport's thread may have to wait for the
// device (unmapping the memory of a peer that died), and the device for the other ranks' steps,
// which they launch on that word.
absl::StatusOr<StepPlan> Agree(RankMesh& mesh, const StepProposal& own);

}  // namespace baleen::decode_worker
