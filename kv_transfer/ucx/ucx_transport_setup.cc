#include "kv_transfer/ucx/ucx_transport_setup.h"

#include <signal.h>
#include <ucs/debug/debug.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
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

// With memory of devices UCX may stage bytes in host memory of its own, and let a peer put there.
// Over wires where the peer stores by itself and nothing stops it (CMA and the like), a late put of
// a peer that was given up could spoil the bytes of another: they are left out. UCX's own mapping
// of devices (cuda_ipc) is no way of ours.
std::string DeviceTransports(const std::string& transports) {
  static const std::set<std::string> kNotThese = {"cma", "knem", "xpmem", "cuda_ipc"};
  const std::string without = absl::StrJoin(kNotThese, ",");
  if (transports.empty() || transports == "all") return absl::StrCat("^", without);
  if (transports[0] == '^') return absl::StrCat(transports, ",", without);
  std::vector<std::string> result;
  for (const std::string& part : std::vector<std::string>(absl::StrSplit(transports, ','))) {
    if (part == "shm" || part == "sm") {
      result.insert(result.end(), {"posix", "sysv"});
    } else if (kNotThese.count(part) == 0) {
      result.push_back(part);
    }
  }
  result.push_back("cuda_copy");
  return absl::StrJoin(result, ",");
}

struct Setting {
  const char* transport;  // whose it is; "" for those of UCX as a whole
  const char* name;
  const char* value;
};

std::vector<Setting> Settings(const std::string& transports, bool device) {
  std::vector<Setting> settings = {
      {"", "LOG_LEVEL", "FATAL"},  // what fails comes back as a status, and is logged as ours
      {"", "RNDV_SCHEME", "get_zcopy"}};  // the receiver fetches; see ucx_transport.h
  if (Allows(transports, {"shm", "sm", "mm", "posix", "sysv"})) {
    settings.push_back({"", "MM_ERROR_HANDLING", "y"});
    // 2 MB: what flows each time the peer is scheduled.
    settings.push_back({"", "MM_FIFO_SIZE", "256"});
  }
  if (Allows(transports, {"shm", "sm", "cma"}))  // else UCX uses no CMA beside error handling
    settings.push_back({"CMA_", "MEMORY_INVALIDATE", "y"});
  if (Allows(transports, {"tcp"})) {
    settings.push_back({"TCP_", "TX_SEG_SIZE", "128K"});
    settings.push_back({"TCP_", "RX_SEG_SIZE", "128K"});
  }
  // Staging beside error handling. The wires left to it (DeviceTransports) end with our close.
  if (device) settings.push_back({"", "RNDV_PIPELINE_ERROR_HANDLING", "y"});
  return settings;
}

absl::Status Modify(ucp_config_t* config, const std::string& name, const std::string& value) {
  return FromUcs(ucp_config_modify(config, name.c_str(), value.c_str()),
                 absl::StrCat("UCX_", name, "=", value));
}

// UCX 1.13 knows a transport's setting by its bare name and ignores what it does not know; later
// ones want the transport's name before it and refuse what they do not know.
absl::Status Modify(ucp_config_t* config, const Setting& setting) {
  const bool bare = Modify(config, setting.name, setting.value).ok();
  const absl::Status whole =
      Modify(config, absl::StrCat(setting.transport, setting.name), setting.value);
  return bare ? absl::OkStatus() : whole;
}

absl::StatusOr<UcpConfig> ReadConfig(const UcxOptions& options) {
  ucp_config_t* raw = nullptr;
  BALEEN_RETURN_IF_ERROR(FromUcs(ucp_config_read(nullptr, nullptr, &raw), "ucp_config_read"));
  UcpConfig config(raw);
  const bool device =
      options.peer_memory != nullptr && options.device_ways != DeviceWays::kPeerMemory;
  const std::string transports = device ? DeviceTransports(options.transports) : options.transports;
  if (!transports.empty()) BALEEN_RETURN_IF_ERROR(Modify(raw, "TLS", transports));
  for (const Setting& setting : Settings(options.transports, device))
    BALEEN_RETURN_IF_ERROR(Modify(raw, setting));
  for (const auto& [name, value] : options.config) BALEEN_RETURN_IF_ERROR(Modify(raw, name, value));
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

bool UsesSharedMemory(ucp_ep_h ep) {
  const std::vector<std::string> wires = Wires(ep);
  return std::any_of(wires.begin(), wires.end(), [](const std::string& wire) {
    return wire == "posix" || wire == "sysv" || wire == "cma" || wire == "xpmem" || wire == "knem";
  });
}

}  // namespace baleen::kv_transfer
