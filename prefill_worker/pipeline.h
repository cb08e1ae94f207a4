#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "common/ids.h"
#include "kv_transfer/link_table.h"
#include "prefill_worker/activation_wire.h"
#include "prefill_worker/batch_header.h"
#include "prefill_worker/stage_report.h"
#include "worker/member.h"

namespace baleen::prefill_worker {

// The wires between the stages of one group: batches go to the next stage, reports to the leader.
// They are the links of kv_transfer; activations are put into slots that the next stage lends
// (activation_wire.h) and the header follows. Batches count only from the previous stage and
// reports only from members; what others send is dropped. What arrives before the members are known
// waits for them.
//
// Threads: ClaimOutbox and SendBatch on the step thread, Report, FreeSlot and Stop from any; the
// callbacks come on the transport's thread and must not block. Destroy before `links`.
class Pipeline {
 public:
  struct Batch {
    BatchHeader header;
    // [header.rows(), hidden] f32, as Forward::stream, in a slot; until FreeSlot.
    std::span<const std::byte> activations;
    int slot = -1;  // -1: none, there are no activations
  };
  struct Callbacks {
    std::function<void(Batch)> batch;          // stages other than the first
    std::function<void(StageReport)> report;   // the leader
    std::function<void(absl::Status)> broken;  // a neighbour's link broke, or sent nonsense
  };

  // Batches that wait for the members at most; the leader sends fewer.
  static constexpr size_t kMaxEarly = 256;

  // Set up before the group is formed, so that nothing that arrives early is lost.
  Pipeline(kv_transfer::LinkTable& links, int index, const ActivationMemory& memory,
           Callbacks callbacks);
  ~Pipeline();

  // The group is formed: connects to the next stage and to the leader. Any thread, once.
  void Connect(const std::vector<worker::MemberInfo>& members);

  // Waits until the activations of the last batch have gone; nullptr once stopped.
  std::byte* ClaimOutbox();
  // To the next stage, which must exist, with the first `bytes` of the claimed outbox; 0: no
  // activations, and nothing was claimed.
  void SendBatch(const BatchHeader& header, size_t bytes);
  // The batch's activations were read.
  void FreeSlot(int slot);
  // ClaimOutbox waits no more.
  void Stop();
  // To the leader; on the leader itself it is delivered directly.
  void Report(StageReport report);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace baleen::prefill_worker
