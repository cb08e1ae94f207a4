#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kv_transfer/ucx/handle.h"
#include "kv_transfer/ucx/ucx_transport.h"

namespace baleen::kv_transfer {

// UCX installs handlers for crash signals when it is loaded; they would hide a crash from whoever
// else watches for it (a sanitizer, systemd). Any thread.
void RemoveUcxSignalHandlers();

// With active messages and wake-up. InvalidArgument names transports that UCX does not have here.
absl::StatusOr<UcpContext> CreateUcpContext(const UcxOptions& options);

// A worker whose messages may have headers of `least_header_bytes`. `context` must outlive it.
absl::StatusOr<UcpWorker> CreateUcpWorker(ucp_context_h context, size_t least_header_bytes);

// The wires of an endpoint, each once, e.g. {"sysv", "posix"}.
std::vector<std::string> Wires(ucp_ep_h ep);
// Is one of them shared memory, or a copy from process to process?
bool UsesSharedMemory(ucp_ep_h ep);

}  // namespace baleen::kv_transfer
