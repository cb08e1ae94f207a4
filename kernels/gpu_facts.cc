#include "kernels/gpu_facts.h"

#include "absl/strings/str_cat.h"

namespace baleen::kernels {
namespace {

template <typename... Parts>
absl::Status Refused(const Parts&... parts) {
  return absl::FailedPreconditionError(absl::StrCat("cuda: ", parts...));
}

std::string VersionName(int version) {
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

// "; the driver has 2" where it says so.
std::string Installed(const GpuFacts& facts) {
  return facts.installed < 0 ? "" : absl::StrCat("; the driver has ", facts.installed);
}

// What CUDA_VISIBLE_DEVICES is, as the begin of a message.
std::string Visible(const GpuFacts& facts) {
  if (!facts.visible_devices) return "";
  return absl::StrCat("CUDA_VISIBLE_DEVICES=\"", *facts.visible_devices, "\": ");
}

}  // namespace

absl::Status CheckGpuFacts(const GpuFacts& facts, int device) {
  const std::string wanted = VersionName(facts.runtime_version);
  if (facts.driver_version == 0)
    return Refused("no NVIDIA driver (libcuda.so.1) is here; this binary needs one for CUDA ",
                   wanted);
  if (facts.driver_version / 1000 < facts.runtime_version / 1000)
    return Refused("the driver is too old: it runs CUDA up to ", VersionName(facts.driver_version),
                   ", this binary needs ", wanted);
  if (!facts.error.empty())
    return Refused(Visible(facts), "the GPUs cannot be used: ", facts.error, Installed(facts));
  if (facts.visible == 0) return Refused(Visible(facts), "no GPU is visible", Installed(facts));
  if (device < 0 || device >= facts.visible)
    return Refused(Visible(facts), "device ", device, " asked for, ", facts.visible, " visible",
                   Installed(facts));
  return absl::OkStatus();
}

absl::Status CheckCapability(int device, absl::string_view name, int major, int minor) {
  if (major == 9 && minor == 0) return absl::OkStatus();
  return Refused("device ", device, " (", name, ") has compute capability ", major, ".", minor,
                 ", the kernels are for 9.0 (Hopper)");
}

}  // namespace baleen::kernels
