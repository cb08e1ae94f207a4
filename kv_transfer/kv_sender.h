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

struct KvSenderOptions {
  int stage = 0;
  int stages = 1;
  uint32_t components = kComponentLatent;                // what the pages of this stage carry
  int window_chunks = 4;                                 // chunks in flight per link
  Duration transfer_timeout = std::chrono::seconds(10);  // a posted piece may take this long
  Duration ttl_margin =
      std::chrono::milliseconds(100);  // nothing is posted this close to a grant's end
  int max_early_grants = 4096;         // grants kept whose attempt has not begun here
};

// Pushes the pages of one prefill stage into decode's pages.
//
// Per attempt: Begin, then PagesReady for consecutive pages as they become complete, on the last
// stage also Handoff; and, any time, Abort. A page is complete when its 64 tokens are computed or
// the prompt has ended; each is announced and put once. Pages of one PagesReady are one *chunk*:
// its puts, a flush, ChunkDone. Nothing waits for the grant but the puts: pages announced earlier
// go when it comes. The grant may also come before Begin.
//
// Every Begin ends in exactly one `closed`: from then on nothing reads the source pages, so their
// references may go (R1 of README.md).
//   Ok                 decode took its first step (Release)
//   Cancelled          Abort here, or decode drained the grant
//   Unavailable        decode's link broke
//   DeadlineExceeded   the grant's time to live ended, or a piece took longer than transfer_timeout
//
// Threads: Begin, PagesReady, Handoff, Abort from any thread (they post); callbacks on the
// transport's thread. Destroy before the LinkTable.
class KvSender {
 public:
  struct Callbacks {
    std::function<void(AttemptId, absl::Status)> closed;  // required
    // A decode rank granted pages: admission may count the attempt's tokens as granted. Also before
    // Begin, and then again (a hint only: whether the grant is good shows at Begin).
    std::function<void(AttemptId)> granted;
    // All of this stage's pages (and Handoff, on the last stage) are at decode.
    std::function<void(AttemptId)> handed_off;
  };
  struct Attempt {
    AttemptId id;
    int pages = 0;       // of the whole prompt
    Incarnation decode;  // the only process whose grant counts
  };

  // `links` and `metrics` must outlive it. Any thread.
  static std::unique_ptr<KvSender> Create(LinkTable& links, const KvSenderOptions& options,
                                          Callbacks callbacks, Metrics& metrics);
  ~KvSender();

  void Begin(const Attempt& attempt);
  // This stage's pages for prompt pages first_page, first_page + 1, ...; in order, no gaps, no
  // repeats.
  void PagesReady(AttemptId attempt, int first_page, std::vector<PageId> pages);
  // Sent once all pages of this stage are visible at decode. Last stage only.
  void Handoff(AttemptId attempt, HandoffRecord record);
  // Stops posting; decode is told `reason`. `closed` follows when posted pieces are done. Unknown
  // or closed attempts are ignored.
  void Abort(AttemptId attempt, const absl::Status& reason);

 private:
  class Core;
  KvSender();
  std::shared_ptr<Core> core_;
};

}  // namespace baleen::kv_transfer
