#include "kernels/cuda/nccl_library.h"

#include <dlfcn.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace baleen::kernels::cuda {
namespace {

template <typename Function>
absl::Status Find(void* library, const char* file, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  if (*function != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("NCCL: ", file, " has no ", name));
}

// As people write it.
std::string Version(int code) {
  return absl::StrCat(code / 10000, ".", code / 100 % 100, ".", code % 100);
}

absl::Status CheckVersion(const NcclLibrary& nccl, const char* file) {
  int version = 0;
  BALEEN_RETURN_IF_ERROR(FromNccl(nccl, nccl.get_version(&version), "its version"));
  if (version >= kOldestNccl) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("NCCL: ", file, " is version ",
                                                    Version(version), ", at least ",
                                                    Version(kOldestNccl), " is needed"));
}

}  // namespace

absl::StatusOr<NcclLibrary> LoadNccl(const char* file) {
  void* const library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return absl::FailedPreconditionError(absl::StrCat("NCCL: ", dlerror()));
  NcclLibrary nccl = {};
  const auto find = [&](const char* name, auto* function) {
    return Find(library, file, name, function);
  };
  BALEEN_RETURN_IF_ERROR(find("ncclGetErrorString", &nccl.get_error_string));
  BALEEN_RETURN_IF_ERROR(find("ncclGetVersion", &nccl.get_version));
  BALEEN_RETURN_IF_ERROR(CheckVersion(nccl, file));
  BALEEN_RETURN_IF_ERROR(find("ncclGetUniqueId", &nccl.get_unique_id));
  BALEEN_RETURN_IF_ERROR(find("ncclCommInitRankConfig", &nccl.comm_init_rank_config));
  BALEEN_RETURN_IF_ERROR(find("ncclCommGetAsyncError", &nccl.comm_get_async_error));
  BALEEN_RETURN_IF_ERROR(find("ncclCommAbort", &nccl.comm_abort));
  BALEEN_RETURN_IF_ERROR(find("ncclGroupStart", &nccl.group_start));
  BALEEN_RETURN_IF_ERROR(find("ncclGroupEnd", &nccl.group_end));
  BALEEN_RETURN_IF_ERROR(find("ncclAllGather", &nccl.all_gather));
  BALEEN_RETURN_IF_ERROR(find("ncclReduceScatter", &nccl.reduce_scatter));
  BALEEN_RETURN_IF_ERROR(find("ncclGetLastError", &nccl.get_last_error));
  return nccl;
}

absl::Status FromNccl(const NcclLibrary& nccl, ncclResult_t result, absl::string_view what) {
  if (result == ncclSuccess || result == ncclInProgress) return absl::OkStatus();
  std::string text = absl::StrCat("NCCL: ", what, ": ", nccl.get_error_string(result));
  const char* const last = nccl.get_last_error ? nccl.get_last_error(nullptr) : "";
  if (*last != '\0') absl::StrAppend(&text, ": ", last);
  if (result == ncclInvalidUsage || result == ncclInvalidArgument)
    return absl::FailedPreconditionError(text);
  return absl::UnavailableError(text);
}

}  // namespace baleen::kernels::cuda
