#pragma once

#include <nccl.h>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baleen::kernels::cuda {

// NCCL, loaded at run time: programs start without it, and only who asks for it needs it. The
// functions are those of nccl.h.
struct NcclLibrary {
  decltype(&ncclGetVersion) get_version;
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRankConfig) comm_init_rank_config;
  decltype(&ncclCommGetAsyncError) comm_get_async_error;
  decltype(&ncclCommAbort) comm_abort;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclGroupEnd) group_end;
  decltype(&ncclAllGather) all_gather;
  decltype(&ncclReduceScatter) reduce_scatter;
  decltype(&ncclGetErrorString) get_error_string;
  decltype(&ncclGetLastError) get_last_error;
};

inline constexpr int kOldestNccl = NCCL_VERSION(2, 27, 0);  // the first for CUDA 13

// `file` as dlopen takes it; it is never unloaded. FailedPrecondition names the file and what is
// missing or too old.
absl::StatusOr<NcclLibrary> LoadNccl(const char* file = "libnccl.so.2");

// Ok also for ncclInProgress. FailedPrecondition: what was asked cannot be, such as two ranks on
// one GPU; else Unavailable. With NCCL's own words.
absl::Status FromNccl(const NcclLibrary& nccl, ncclResult_t result, absl::string_view what);

}  // namespace baleen::kernels::cuda
