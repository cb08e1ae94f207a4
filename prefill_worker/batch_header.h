#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/ids.h"

namespace baleen::prefill_worker {

// What a batch begins for the first time: everything later stages need to know of an attempt.
struct AttemptStart {
  AttemptId attempt;
  Incarnation decode;           // the only process whose grant counts
  std::vector<int32_t> prompt;  // token ids
  std::vector<int32_t> pages;   // page ids of the whole prompt, the same on every stage
  int32_t cached_tokens = 0;    // found in the prefix cache; a multiple of the page
  std::string sampling;         // serialised v1::SamplingParams

  bool operator==(const AttemptStart&) const = default;
};

// Rows [first, first + rows) of one prompt. The last rows of a prompt also yield its first token.
struct BatchEntry {
  AttemptId attempt;
  int32_t first = 0;
  int32_t rows = 0;

  bool operator==(const BatchEntry&) const = default;
};

// Ends an attempt on every stage; decode hears why.
struct AttemptAbort {
  AttemptId attempt;
  uint32_t code = 0;  // absl::StatusCode
  std::string why;

  bool operator==(const AttemptAbort&) const = default;
};

// One numbered batch with all of the leader's decisions. It travels ahead of the activations
// through the stages, which apply it in order, exactly once; nobody votes (R4 of
// kv_transfer/README.md). Processing order: starts, entries, aborts.
struct BatchHeader {
  uint64_t number = 0;  // 1, 2, 3, ...
  std::vector<AttemptStart> starts;
  std::vector<BatchEntry> entries;
  std::vector<AttemptAbort> aborts;  // no later batch names them

  int rows() const {
    int sum = 0;
    for (const BatchEntry& entry : entries) sum += entry.rows;
    return sum;
  }
  bool operator==(const BatchHeader&) const = default;
};

std::vector<std::byte> Encode(const BatchHeader& header);
// InvalidArgument when the bytes are not exactly one header.
absl::StatusOr<BatchHeader> DecodeBatchHeader(std::span<const std::byte> bytes);

}  // namespace baleen::prefill_worker
