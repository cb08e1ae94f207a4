#include "worker/process_config.h"

#include "proto/config.pb.h"

namespace baleen::worker {

absl::Status Complete(v1::WorkerConfig& config) {
  if (config.group().empty()) return absl::InvalidArgumentError("worker.group: missing");
  if (config.size() < 1) return absl::InvalidArgumentError("worker.size: below 1");
  if (config.index() > 0 && config.leader().empty())
    return absl::InvalidArgumentError("worker.leader: missing, and this is not index 0");
  if (config.index() == 0 && config.grpc_port() == 0)
    return absl::InvalidArgumentError("worker.grpc_port: the leader of a group needs a fixed port");
  if (!config.has_lease_ms()) config.set_lease_ms(6000);
  if (!config.has_drain_timeout_ms()) config.set_drain_timeout_ms(60'000);
  if (!config.has_step_timeout_ms()) config.set_step_timeout_ms(60'000);
  if (config.lease_ms() < 1) return absl::InvalidArgumentError("worker.lease_ms: below 1");
  if (config.step_timeout_ms() < 1)
    return absl::InvalidArgumentError("worker.step_timeout_ms: below 1");
  return absl::OkStatus();
}

}  // namespace baleen::worker
