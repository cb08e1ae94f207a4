#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/ids.h"
#include "kv_transfer/messages.h"

namespace baleen::prefill_worker {

// The pipeline's message types over kv_transfer.
inline constexpr uint8_t kBatchMessage =
    kv_transfer::kFirstUserType;  // leader's header, and the slot that has the activations
inline constexpr uint8_t kReportMessage = kv_transfer::kFirstUserType + 1;  // stage to leader
inline constexpr uint8_t kSlotsMessage = kv_transfer::kFirstUserType + 2;   // to the stage before:
inline constexpr uint8_t kSlotFreeMessage = kv_transfer::kFirstUserType + 3;  // activation_wire.h

// What a stage tells the leader.
struct StageReport {
  enum class Kind : uint8_t {
    kBatchDone,  // `batch` is computed (last stage only)
    kHandedOff,  // decode has all pages and the first token (last stage only)
    kFailed,     // the attempt cannot go on, `status` says why; the leader aborts it everywhere
    kEnded,      // the stage computes nothing of it any more and nothing reads its pages
  };
  Kind kind = Kind::kBatchDone;
  int32_t stage = 0;
  uint64_t batch = 0;
  AttemptId attempt;
  absl::Status status;  // kFailed; kEnded: why the hand-over ended, Ok when decode released it
};

std::vector<std::byte> Encode(const StageReport& report);
absl::StatusOr<StageReport> DecodeStageReport(std::span<const std::byte> bytes);

}  // namespace baleen::prefill_worker
