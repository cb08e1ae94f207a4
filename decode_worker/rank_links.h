#pragma once

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "common/clock.h"
#include "common/ids.h"
#include "decode_worker/rank_mesh.h"
#include "kv_transfer/link_table.h"

namespace baleen::decode_worker {

// Carries a RankMesh's messages over the links of kv_transfer, and tells the mesh when a sibling's
// link breaks.
//
// Made before any link exists, because a faster sibling's first message may come before this rank
// knows who its siblings are; such messages wait for Connect. A message of a process that is no
// sibling is dropped and counted.
//
// Threads: Create on main; Connect, Post on the step thread. Destroy after the step thread ended
// and before `links`; the mesh must outlive `links`, whose end completes what was not sent.
class RankLinks {
 public:
  // `links` and `metrics` must outlive it.
  static std::unique_ptr<RankLinks> Create(kv_transfer::LinkTable& links, Metrics& metrics);
  ~RankLinks();

  // Connects to all `ranks` (by index; own entry included) and blocks until every link is up.
  // DeadlineExceeded, Unavailable: names the rank. Later failures go to mesh.Fail.
  absl::Status Connect(RankMesh& mesh, const std::vector<kv_transfer::PeerAddress>& ranks,
                       Duration deadline);

  // For RankMesh::Options: sends envelopes on the transport's thread.
  void Post(std::span<const RankMesh::Envelope> envelopes, int parity);

  // The group ends in agreement: siblings that vanish from now on are no failure; what is posted
  // later is still sent where it can be. Ends a Connect that waits (Cancelled). Any thread.
  void Finish();

 private:
  class Core;
  RankLinks();
  std::shared_ptr<Core> core_;  // shared with tasks posted to the transport
};

}  // namespace baleen::decode_worker
