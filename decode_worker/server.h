#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/run_server.h"

namespace baleen::v1 {
class DecodeConfig;
}

namespace baleen::decode_worker {

// One data-parallel decode rank as a process: wiring only. Every rank serves its own requests;
// index 0 also forms the group and registers it with the routers. Threads: Create, Drain and the
// destructor on main; owns the step thread.
class Server {
 public:
  // InvalidArgument names the field of the configuration.
  static absl::StatusOr<std::unique_ptr<Server>> Create(const v1::DecodeConfig& config,
                                                        ShutdownSignal& shutdown);
  ~Server();

  // The whole group takes nothing new, finishes what runs (or ends it when the configured time is
  // over) and leaves its loop together.
  void Drain();

 private:
  Server();
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace baleen::decode_worker
