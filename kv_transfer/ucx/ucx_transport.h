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
  DeviceWays device_ways = DeviceWays::kAny;
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
// Between device memories a put takes the way that was agreed when the link came up. PeerMemory:
// an active message of many pieces, which the owner's device fetches out of the sender's; the
// answer ends the put, and UCX need not know of devices. UCX built with CUDA: as from host memory,
// always by rendezvous; UCX moves the bytes as the wire allows (GPUDirect, or staged in pinned host
// memory), and the owner bounds how many are on their way. The owner's process writes its pages on
// either way (docs/decisions/0008-ucx-cuda.md).
//
// Endpoints have error mode PEER; shared memory allows that only with MM_ERROR_HANDLING=y, which is
// set. A rendezvous may be overtaken by later small messages: they carry a sequence number and are
// put in order here. UCX's handlers for SIGSEGV and the like are removed: a crash is a crash.
//
// Fails with InvalidArgument for a transport that UCX does not have here.
absl::StatusOr<std::unique_ptr<Transport>> CreateUcxTransport(const UcxOptions& options);

}  // namespace baleen::kv_transfer
