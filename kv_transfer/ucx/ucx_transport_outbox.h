#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kv_transfer/buffer.h"
#include "kv_transfer/transport.h"
#include "kv_transfer/ucx/handle.h"
#include "kv_transfer/ucx/ucx_transport_wire.h"

namespace baleen::kv_transfer {

// One active message. Header and `gathered` are kept until UCX has sent it.
struct UcxActive {
  unsigned message;  // one of ucx_transport_wire.h's
  Bytes header;
  std::span<const std::byte> payload = {};
  Buffer gathered = {};  // the payload, when it came in pieces
  ucp_mem_h device =
      nullptr;  // the payload lies in this memory of the device; nullptr: in the host's
};

// The sending half of UcxTransport: active messages on their way out. Owner thread only; each
// `done` (may be empty) is called once, through `events`, which the transport runs after
// ucp_worker_progress.
class UcxOutbox {
 public:
  // `events` must outlive it. `device_type`: what UCX calls memory of the device.
  UcxOutbox(std::vector<Transport::Task>* events, ucs_memory_type_t device_type)
      : events_(events), device_type_(device_type) {}
  // After the worker is gone.
  ~UcxOutbox();

  void Send(EndpointId id, ucp_ep_h endpoint, UcxActive active, Transport::Done done);
  // Nothing of that endpoint is waited for any more: what is under way ends with `status`.
  void Abandon(EndpointId id, const absl::Status& status);
  void Later(Transport::Done done, absl::Status status);
  bool sending() const { return !pending_.empty(); }

 private:
  struct Operation {
    UcxOutbox* outbox;
    EndpointId endpoint;
    UcxActive active;
    Transport::Done done;
  };
  ucp_request_param_t ParamOf(Operation& operation) const;
  void Complete(Operation* operation, ucs_status_t status);

  std::vector<Transport::Task>* const events_;
  const ucs_memory_type_t device_type_;
  std::map<uint64_t, std::set<Operation*>> pending_;  // by endpoint
  std::set<Operation*> orphans_;                      // their endpoint is closed, `done` was called
};

}  // namespace baleen::kv_transfer
