#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "common/ids.h"
#include "kv_transfer/link_table.h"
#include "prefill_worker/batch_header.h"
#include "prefill_worker/stage_report.h"
#include "worker/member.h"

namespace baleen::prefill_worker {

// The wires between the stages of one group: batches go to the next stage, reports to the leader.
// They are the links of kv_transfer, so activations travel as pages do. Batches count only from the
// previous stage and reports only from members; what others send is dropped. What arrives before
// the members are known waits for them.
//
// Threads: SendBatch and Report from any thread; the callbacks come on the transport's thread and
// must not block. Destroy before `links`.
class Pipeline {
 public:
  struct Batch {
    BatchHeader header;
    kv_transfer::Buffer message;             // owns `activations`
    std::span<const std::byte> activations;  // [header.rows(), hidden] f32, as Forward::stream
  };
  struct Callbacks {
    std::function<void(Batch)> batch;          // stages other than the first
    std::function<void(StageReport)> report;   // the leader
    std::function<void(absl::Status)> broken;  // a neighbour's link broke, or sent nonsense
  };

  // Batches that wait for the members at most; the leader sends fewer.
  static constexpr size_t kMaxEarly = 256;

  // Set up before the group is formed, so that nothing that arrives early is lost.
  Pipeline(kv_transfer::LinkTable& links, int index, Callbacks callbacks);
  ~Pipeline();

  // The group is formed: connects to the next stage and to the leader. Any thread, once.
  void Connect(const std::vector<worker::MemberInfo>& members);

  // To the next stage, which must exist. `activations` is kept until it is sent.
  void SendBatch(const BatchHeader& header, kv_transfer::Buffer activations);
  // To the leader; on the leader itself it is delivered directly.
  void Report(StageReport report);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace baleen::prefill_worker
