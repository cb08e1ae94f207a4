#include "kv_transfer/ucx/ucx_transport_setup.h"

#include <signal.h>
#include <ucs/debug/debug.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/check.h"
#include "common/status_macros.h"

namespace baleen::kv_transfer {
namespace {

// Does UCX_TLS=`transports` allow one of `names`?
bool Allows(const std::string& transports, const std::set<std::string>& names) {
  if (transports.empty() || transports == "all") return true;
  const std::vector<std::string> parts = absl::StrSplit(transports, ',');
  return std::any_of(parts.begin(), parts.end(),
                     [&](const std::string& part) { return names.count(part) > 0; });
}

absl::StatusOr<UcpConfig> ReadConfig(const UcxOptions& options) {
  ucp_config_t* raw = nullptr;
  BALEEN_RETURN_IF_ERROR(FromUcs(ucp_config_read(nullptr, nullptr, &raw), "ucp_config_read"));
  UcpConfig config(raw);
  std::map<std::string, std::string> settings = options.config;
  if (!options.transports.empty()) settings["TLS"] = options.transports;
  // UCX warns of settings that no transport in use has.
  if (Allows(options.transports, {"shm", "sm", "mm", "posix", "sysv"})) {
    settings.emplace("MM_ERROR_HANDLING", "y");
    settings.emplace("MM_FIFO_SIZE", "256");  // 2 MB: what flows each time the peer is scheduled
  }
  if (Allows(options.transports, {"shm", "sm", "cma"}))
    settings.emplace("MEMORY_INVALIDATE", "y");  // else UCX uses no CMA beside error handling
  if (Allows(options.transports, {"tcp"})) {
    settings.emplace("TX_SEG_SIZE", "128K");
    settings.emplace("RX_SEG_SIZE", "128K");
  }
  settings.emplace("LOG_LEVEL",
                   "FATAL");  // what fails comes back as a status, and is logged as ours
  settings.emplace("RNDV_SCHEME", "get_zcopy");  // the receiver fetches; see ucx_transport.h
  for (const auto& [name, value] : settings)
    BALEEN_RETURN_IF_ERROR(FromUcs(ucp_config_modify(config.get(), name.c_str(), value.c_str()),
                                   absl::StrCat("UCX_", name, "=", value)));
  return config;
}

}  // namespace

void RemoveUcxSignalHandlers() {
  static std::once_flag once;
  std::call_once(once, [] {
    for (int signal : {SIGILL, SIGSEGV, SIGBUS, SIGFPE}) {
      struct sigaction now = {};
      sigaction(signal, nullptr, &now);
      if (now.sa_handler != SIG_DFL || (now.sa_flags & SA_SIGINFO))
        ucs_debug_disable_signal(signal);
    }
  });
}

absl::StatusOr<UcpContext> CreateUcpContext(const UcxOptions& options) {
  BALEEN_ASSIGN_OR_RETURN(const UcpConfig config, ReadConfig(options));
  ucp_params_t params = {};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  params.name = options.name.c_str();
  ucp_context_h context = nullptr;
  const ucs_status_t status = ucp_init(&params, config.get(), &context);
  if (status == UCS_ERR_NO_DEVICE)
    return absl::InvalidArgumentError(
        absl::StrCat("transport: UCX has no transport \"", options.transports, "\" here"));
  BALEEN_RETURN_IF_ERROR(FromUcs(status, "ucp_init"));
  return UcpContext(context);
}

absl::StatusOr<UcpWorker> CreateUcpWorker(ucp_context_h context, size_t least_header_bytes) {
  ucp_worker_params_t params = {};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  ucp_worker_h raw = nullptr;
  BALEEN_RETURN_IF_ERROR(FromUcs(ucp_worker_create(context, &params, &raw), "ucp_worker_create"));
  UcpWorker worker(raw);
  ucp_worker_attr_t attributes = {};
  attributes.field_mask = UCP_WORKER_ATTR_FIELD_MAX_AM_HEADER;
  BALEEN_RETURN_IF_ERROR(FromUcs(ucp_worker_query(raw, &attributes), "ucp_worker_query"));
  if (attributes.max_am_header < least_header_bytes)
    return absl::FailedPreconditionError(absl::StrCat("transport: UCX carries headers of ",
                                                      attributes.max_am_header, " bytes only"));
  return worker;
}

// The wires of an endpoint. UCX 1.13 tells them only in the text of ucp_ep_print_info, one line a
// lane:
// "#   lane[0]:  3:sysv/memory.0 md[2] -> ...".
std::vector<std::string> Wires(ucp_ep_h ep) {
  char* text = nullptr;
  size_t size = 0;
  FILE* stream = open_memstream(&text, &size);
  BALEEN_CHECK(stream != nullptr);
  ucp_ep_print_info(ep, stream);
  fclose(stream);
  std::vector<std::string> wires;
  for (absl::string_view line : absl::StrSplit(absl::string_view(text, size), '\n')) {
    const size_t lane = line.find("lane["), slash = line.find('/');
    if (lane == line.npos || slash == line.npos) continue;
    const size_t colon = line.rfind(':', slash);
    if (colon == line.npos || colon < lane) continue;
    std::string wire(line.substr(colon + 1, slash - colon - 1));
    if (std::find(wires.begin(), wires.end(), wire) == wires.end()) wires.push_back(wire);
  }
  free(text);
  return wires;
}

}  // namespace baleen::kv_transfer
