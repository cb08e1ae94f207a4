#include "kernels/backend.h"

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/status_macros.h"
#include "kernels/cpu/cpu_backend.h"

namespace baleen::kernels {

std::unique_ptr<Backend> MakeCpuBackend(int threads) {
  return std::make_unique<cpu::CpuBackend>(threads);
}

absl::StatusOr<std::optional<int>> GpuOf(absl::string_view device) {
  if (device == "cpu") return std::nullopt;
  if (device == "cuda") return 0;
  int gpu = -1;
  absl::string_view number = device;
  if (absl::ConsumePrefix(&number, "cuda:") && absl::SimpleAtoi(number, &gpu) && gpu >= 0)
    return gpu;
  return absl::InvalidArgumentError(
      absl::StrCat("device: \"", device, "\" is none of \"cpu\", \"cuda\" and \"cuda:N\""));
}

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(absl::string_view device, int cpu_threads) {
  BALEEN_ASSIGN_OR_RETURN(const std::optional<int> gpu, GpuOf(device));
  if (!gpu) return MakeCpuBackend(cpu_threads);
  return MakeCudaBackend(*gpu);
}

// The only place that knows whether CUDA is compiled in; with it, kernels/cuda defines this.
#if !defined(BALEEN_CUDA)
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(int /*device*/) {
  return absl::FailedPreconditionError(
      "this binary was built without CUDA (configure with -DBALEEN_CUDA=ON)");
}
#endif

}  // namespace baleen::kernels
