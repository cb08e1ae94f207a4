#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "common/ids.h"
#include "common/metrics.h"
#include "kv_transfer/link_table.h"
#include "kv_transfer/messages.h"

namespace baleen::kv_transfer {

struct KvReceiverOptions {
  Duration grant_ttl = std::chrono::seconds(60);  // renewed while the attempt lives
  Duration transfer_timeout = std::chrono::seconds(10);
  Duration drain_ack_timeout = std::chrono::seconds(2);
};

// Lends pages of one decode rank to the stages of a prefill group and says when a prompt is
// complete.
//
// Per attempt: Grant; then exactly one of
//   ready(attempt, record)   every stage has shown every page with every component, and Handoff is
//                            here (R6). Then Release after the first step, or Cancel.
//   failed(attempt, status)  the pages go into quarantine.
// After `failed` or Cancel, `settled(attempt)` is called once: no writer can touch the pages any
// more and their writer references may go. After `ready` the writers are done: writer references
// may go at once, and Cancel is followed by `settled` immediately.
//
// Quarantine ends with a DrainAck of every stage, or for a stage that neither answers nor lands a
// chunk within drain_ack_timeout, by fencing its link and LinkTable::Settled.
//
// R1 to R9 are the rules of README.md.
//
// Clocks (R2): waiting for prefill has no limit here (the client's deadline is the caller's);
// liveness is the links' lease; progress is measured from Handoff on, when every stage
// has computed and only bytes are missing: transfer_timeout without a chunk fails the attempt.
// Before that, prefill watches its own posted pieces.
//
// Threads: Grant, Release, Cancel from any thread (they post); callbacks on the transport's thread.
// Destroy before the LinkTable.
class KvReceiver {
 public:
  struct Callbacks {
    std::function<void(AttemptId, HandoffRecord)> ready;
    std::function<void(AttemptId, absl::Status)> failed;
    std::function<void(AttemptId)> settled;
  };
  struct Stage {
    PeerAddress peer;
    uint32_t components = kComponentLatent;  // that this stage must bring
  };
  struct GrantRequest {
    AttemptId attempt;
    std::vector<Stage> stages;  // every stage of the prefill group, by index
    std::vector<PageId> pages;  // for prompt pages 0, 1, ...
    uint64_t prompt_hash = 0;   // must equal Handoff's; 0: not checked
  };
  struct Counts {
    int granted = 0, receiving = 0, ready = 0, quarantined = 0;  // attempts
    int quarantined_pages = 0;
  };

  // `links` and `metrics` must outlive it. Any thread.
  static std::unique_ptr<KvReceiver> Create(LinkTable& links, const KvReceiverOptions& options,
                                            Callbacks callbacks, Metrics& metrics);
  ~KvReceiver();

  void Grant(GrantRequest request);
  // The first step was taken: prefill may drop its source pages. The attempt is forgotten.
  void Release(AttemptId attempt);
  // The request is gone. Unknown attempts are ignored.
  void Cancel(AttemptId attempt, const absl::Status& reason);

  // As of now. Any thread.
  Counts counts() const;

 private:
  class Core;
  KvReceiver();
  std::shared_ptr<Core> core_;
};

}  // namespace baleen::kv_transfer
