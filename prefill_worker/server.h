#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/run_server.h"

namespace baleen::v1 {
class PrefillConfig;
}

namespace baleen::prefill_worker {

// One pipeline stage as a process: wiring only. Stage 0 is the leader: it alone serves requests and
// registers with the routers; the others compute what its batch headers say.
// Threads: Create, Drain and the destructor on main.
class Server {
 public:
  // InvalidArgument names the field of the configuration.
  static absl::StatusOr<std::unique_ptr<Server>> Create(const v1::PrefillConfig& config,
                                                        ShutdownSignal& shutdown);
  ~Server();

  // The leader takes nothing new, waits until every page is delivered (or the configured time is
  // over) and ends the group. Another stage asks the leader for that and waits for it.
  void Drain();

 private:
  Server();
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace baleen::prefill_worker
