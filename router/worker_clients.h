#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "common/ids.h"
#include "router/cluster_view.h"
#include "router/generation_events.h"

namespace baleen::v1 {
class SamplingParams;
}

namespace baleen::router {

using TokenIds = std::shared_ptr<const std::vector<uint32_t>>;

// Both legs of an attempt get the same input.
struct AttemptInput {
  AttemptId attempt;
  TokenIds prompt;
  std::shared_ptr<const v1::SamplingParams> sampling;
};

// What happens on a leg's stream, in order, one call at a time, on the client's threads.
// OnDone is the last call, exactly once after Start, also after Cancel.
class PrefillEvents {
 public:
  virtual ~PrefillEvents() = default;
  virtual void OnPrefillStarted(AttemptId attempt, int cached_tokens) = 0;
  virtual void OnHandedOff(AttemptId attempt) = 0;
  virtual void OnPrefillDone(AttemptId attempt, absl::Status status) = 0;
};
class DecodeEvents {
 public:
  virtual ~DecodeEvents() = default;
  virtual void OnTokens(AttemptId attempt, TokenStep step) = 0;
  virtual void OnFinished(AttemptId attempt, FinishInfo info) = 0;
  virtual void OnDecodeDone(AttemptId attempt, absl::Status status) = 0;
};

// One stream to a worker. Start at most once; Cancel any number of times, before or after Start,
// from any thread, also from inside an event.
class Leg {
 public:
  virtual ~Leg() = default;
  virtual void Start() = 0;
  virtual void Cancel() = 0;
};

// Opens streams to workers. Any thread; never blocks.
class WorkerClients {
 public:
  virtual ~WorkerClients() = default;
  // To the prefill group's leader; `decode` is the rank that will grant pages.
  virtual std::shared_ptr<Leg> Prefill(const GroupIdentity& prefill, const WorkerMember& decode,
                                       const AttemptInput& input,
                                       std::shared_ptr<PrefillEvents> events) = 0;
  // To the decode rank; it grants to every stage of `prefill`.
  virtual std::shared_ptr<Leg> Decode(const WorkerMember& rank, const GroupIdentity& prefill,
                                      const AttemptInput& input,
                                      std::shared_ptr<DecodeEvents> events) = 0;
};

}  // namespace baleen::router
