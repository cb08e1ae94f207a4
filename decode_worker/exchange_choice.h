#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baleen::decode_worker {

// How experts' rows go between the ranks of a group.
enum class ExchangeKind : uint8_t {
  kPeerMemory,  // the devices write into each other's memory (PeerExchange)
  kNccl,        // the devices by NCCL (PeerExchange)
  kHost,        // messages from host memory (TransportExchange)
};
const char* Name(ExchangeKind kind);  // as the configuration has it

// What can be said of DecodeConfig.expert_exchange before anything slow happens. `device` and
// `peer_memory` as in WorkerConfig. InvalidArgument names the field.
absl::Status CheckExchange(absl::string_view wanted, absl::string_view device,
                           absl::string_view peer_memory);

// Of a checked `wanted`; "" is peer memory where the device's memory is `shared`, else the host's.
// FailedPrecondition: peer memory is wanted and not shared.
absl::StatusOr<ExchangeKind> ChooseExchange(absl::string_view wanted, bool shared);

}  // namespace baleen::decode_worker
