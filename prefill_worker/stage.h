#pragma once

#include <functional>
#include <map>
#include <vector>

#include "common/ids.h"
#include "common/metrics.h"
#include "engine/prefill_step.h"
#include "kv_transfer/kv_sender.h"
#include "prefill_worker/batch_header.h"
#include "prefill_worker/hand_over_ledger.h"
#include "prefill_worker/stage_report.h"

namespace baleen::prefill_worker {

// What one pipeline stage does with a batch: computes its layers, and pushes every page that is
// complete. Borrows all it is given. Threads: the step thread.
class Stage {
 public:
  struct Options {
    int index = 0;
    int size = 1;
    int token_limit = 0;
    int pages = 0;                                         // of this stage's pool
    int max_rows = 0;                                      // of a batch
    int max_sequences = 0;                                 // of a batch
    std::function<void(std::span<const PageId>)> to_wire;  // WirePool::ToWire
    std::function<void(StageReport)> report;               // to the leader; any thread
  };
  Stage(engine::PrefillStep& step, kv_transfer::KvSender& sender, HandOverLedger& ledger,
        Options options, Metrics& metrics);

  // DataLoss: no leader that is in step with this stage sends such a header.
  absl::Status Check(const BatchHeader& header) const;
  // Applies `header`, which Check found good. Rows' input, on a stage that is not the first, is in
  // the forward's stream.
  void Execute(const BatchHeader& header);

 private:
  struct Attempt {
    AttemptStart start;
    model::SamplingParams sampling;
    std::vector<PageId> pages;
    int computed = 0;  // tokens with caches, those of the prefix cache included
    std::vector<model::TokenLogprobs> prompt_logprobs;
    bool failed = false;  // in one of its chunks; the leader may have planned more by then
  };
  bool last() const { return options_.index == options_.size - 1; }
  absl::Status Check(const AttemptStart& start) const;
  void Begin(const AttemptStart& start);
  void PushCached(const Attempt& attempt);
  engine::PrefillChunk ChunkOf(const BatchEntry& entry, Attempt& attempt) const;
  void Compute(const BatchHeader& header);
  void ReportBatch(const BatchHeader& header, const std::vector<engine::PrefillResult>& results);
  void Push(const BatchEntry& entry, const Attempt& attempt);
  void HandOff(AttemptId id, Attempt& attempt, engine::PrefillResult& result);

  engine::PrefillStep& step_;
  kv_transfer::KvSender& sender_;
  HandOverLedger& ledger_;
  const Options options_;
  std::map<AttemptId, Attempt> attempts_;
  prometheus::Histogram& batch_seconds_;
  prometheus::Counter& rows_;
};

}  // namespace baleen::prefill_worker
