#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/ids.h"

namespace baleen::prefill_worker {

// What the router asks for: proto PrefillRequest as a plain struct.
struct PrefillJob {
  AttemptId attempt;
  std::vector<int32_t> prompt;
  std::string sampling;   // serialised v1::SamplingParams, passed on as it is
  Incarnation decode;     // the rank that will grant pages
  bool use_cache = true;  // false: every row is computed (prompt logprobs need them all)
};

// Where the outcome goes. Called from several threads; Finished may come while another call is
// running (the group broke). Must not block.
class PrefillSink {
 public:
  virtual ~PrefillSink() = default;
  virtual void Started(int cached_tokens) = 0;
  virtual void HandedOff() = 0;
  // Last. Ok: decode released the pages.
  virtual void Finished(absl::Status status) = 0;
};

}  // namespace baleen::prefill_worker
