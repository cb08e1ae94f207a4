#include "worker/process_config.h"

#include "proto/config.pb.h"

namespace baleen::worker {

absl::Status CheckMembership(const v1::WorkerConfig& config) {
  if (config.group().empty()) return absl::InvalidArgumentError("worker.group: missing");
  if (config.size() < 1) return absl::InvalidArgumentError("worker.size: below 1");
  if (config.index() > 0 && config.leader().empty())
    return absl::InvalidArgumentError("worker.leader: missing, and this is not index 0");
  if (config.index() == 0 && config.grpc_port() == 0)
    return absl::InvalidArgumentError("worker.grpc_port: the leader of a group needs a fixed port");
  return absl::OkStatus();
}

}  // namespace baleen::worker
