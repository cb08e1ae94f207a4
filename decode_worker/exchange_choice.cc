#include "decode_worker/exchange_choice.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace baleen::decode_worker {

const char* Name(ExchangeKind kind) {
  switch (kind) {
    case ExchangeKind::kPeerMemory:
      return "peer_memory";
    case ExchangeKind::kNccl:
      return "nccl";
    case ExchangeKind::kHost:
      return "host";
  }
  return "?";
}

absl::Status CheckExchange(absl::string_view wanted, absl::string_view device,
                           absl::string_view peer_memory) {
  if (wanted.empty() || wanted == "host") return absl::OkStatus();
  if (wanted != "peer_memory" && wanted != "nccl")
    return absl::InvalidArgumentError(absl::StrCat(
        "expert_exchange: \"", wanted, "\" is none of \"peer_memory\", \"nccl\" and \"host\""));
  if (!absl::StartsWith(device, "cuda"))
    return absl::InvalidArgumentError(
        absl::StrCat("expert_exchange: \"", wanted, "\" needs worker.device \"cuda\""));
  if (wanted == "peer_memory" && peer_memory == "host")
    return absl::InvalidArgumentError(
        "expert_exchange: \"peer_memory\", but worker.peer_memory is \"host\"");
  return absl::OkStatus();
}

absl::StatusOr<ExchangeKind> ChooseExchange(absl::string_view wanted, bool shared) {
  if (wanted == "nccl") return ExchangeKind::kNccl;
  if (wanted == "host") return ExchangeKind::kHost;
  if (shared) return ExchangeKind::kPeerMemory;
  if (wanted.empty()) return ExchangeKind::kHost;
  return absl::FailedPreconditionError(
      "expert_exchange: \"peer_memory\", but this device's memory is not shared");
}

}  // namespace baleen::decode_worker
