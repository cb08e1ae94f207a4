#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/peer_memory.h"
#include "kv_transfer/transport.h"

namespace baleen::kv_transfer {

struct UcxOptions {
  std::string name;        // of this process, for UCX's own messages
  std::string transports;  // as UCX_TLS: "" = all, "tcp", "shm"
  // How long the owner thread spins after its last work before it sleeps.
  Duration spin = std::chrono::microseconds(20);
  size_t keep_buffer_bytes = size_t{256} << 20;  // idle receive buffers kept for the next message
  std::map<std::string, std::string> config;     // further UCX settings, names without "UCX_"
  PeerMemory* peer_memory = nullptr;  // for regions of MemoryKind::kDevice; outlives the transport
};

// The wire over UCX: one context, one worker, one owner thread.
//
// A put is an active message that the *owner* of the memory carries out: it checks the region and
// the bounds, then copies a small put out of the message, or fetches a large one straight into
// place (rendezvous, scheme get_zcopy: over shared memory one copy by CMA). So after Close nothing
// more is written, whatever the peer does: FenceOf is kOwnClose on every wire, and Close is done
// once fetches under way have ended. ucp_put_nbx is not used on host memory: over tcp and shared
// memory UCX 1.13 emulates it, twice as slow, without bounds check, and crashes when an endpoint is
// closed while acknowledgements of such puts wait (docs/decisions/0005-transfer-fences.md).
//
// A put between device memories is an active message too, of many pieces: the owner's device
// fetches them out of the sender's (PeerMemory) and the answer ends the put. The bytes never pass
// through UCX, which need not know of devices.
//
// Endpoints have error mode PEER; shared memory allows that only with MM_ERROR_HANDLING=y, which is
// set. A rendezvous may be overtaken by later small messages: they carry a sequence number and are
// put in order here. UCX's handlers for SIGSEGV and the like are removed: a crash is a crash.
//
// Fails with InvalidArgument for a transport that UCX does not have here.
absl::StatusOr<std::unique_ptr<Transport>> CreateUcxTransport(const UcxOptions& options);

}  // namespace baleen::kv_transfer
