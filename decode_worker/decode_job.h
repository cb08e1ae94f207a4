#pragma once

#include <cstdint>
#include <vector>

#include "common/ids.h"
#include "kv_transfer/link_table.h"
#include "model/sampling_params.h"

namespace baleen::decode_worker {

// What the router asks for: proto DecodeRequest as a plain struct.
struct DecodeJob {
  AttemptId attempt;
  std::vector<int32_t> prompt;
  model::SamplingParams sampling;
  std::vector<kv_transfer::PeerAddress> prefill;  // every stage, by index
};

}  // namespace baleen::decode_worker
