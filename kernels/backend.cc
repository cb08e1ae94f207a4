#include "kernels/backend.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_backend.h"

namespace baleen::kernels {

std::unique_ptr<Backend> MakeCpuBackend(int threads) {
  return std::make_unique<cpu::CpuBackend>(threads);
}

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(absl::string_view device, int cpu_threads) {
  if (device == "cpu") return MakeCpuBackend(cpu_threads);
  if (device == "cuda") return MakeCudaBackend(/*device=*/0);
  return absl::InvalidArgumentError(
      absl::StrCat("device: \"", device, "\" is neither \"cpu\" nor \"cuda\""));
}

// The only place that knows whether CUDA is compiled in; with it, kernels/cuda defines this.
#if !defined(BALEEN_CUDA)
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(int /*device*/) {
  return absl::FailedPreconditionError(
      "this binary was built without CUDA (configure with -DBALEEN_CUDA=ON)");
}
#endif

}  // namespace baleen::kernels
