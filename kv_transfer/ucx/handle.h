#pragma once

#include <ucp/api/ucp.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace baleen::kv_transfer {

// UCX codes become absl codes in exactly one place. A broken or refused connection is Unavailable,
// our own force close Cancelled, memory or resources ResourceExhausted.
absl::Status FromUcs(ucs_status_t status, absl::string_view what);

// Worker and context: destroyed by UCX with a plain call, so unique_ptr is the whole wrapper.
// Declare in this order; members die in reverse.
struct UcpDeleter {
  void operator()(ucp_context* c) const { ucp_cleanup(c); }
  void operator()(ucp_worker* w) const { ucp_worker_destroy(w); }
  void operator()(ucp_config_t* c) const { ucp_config_release(c); }
};
using UcpContext = std::unique_ptr<ucp_context, UcpDeleter>;
using UcpWorker = std::unique_ptr<ucp_worker, UcpDeleter>;
using UcpConfig = std::unique_ptr<ucp_config_t, UcpDeleter>;

// Registered memory; `context` must outlive it.
struct UcpUnmap {
  ucp_context_h context;
  void operator()(ucp_mem* memory) const { ucp_mem_unmap(context, memory); }
};
using UcpMemory = std::unique_ptr<ucp_mem, UcpUnmap>;

}  // namespace baleen::kv_transfer
