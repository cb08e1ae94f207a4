#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace baleen::kernels {

// What a machine says of its GPUs at start. Plain values, so that a machine without any can test
// what is said about them.
struct GpuFacts {
  int driver_version = 0;   // newest CUDA that the driver runs, 13000 for 13.0; 0: no driver
  int runtime_version = 0;  // the CUDA that this binary was built with
  int visible = 0;          // GPUs
  std::string error;        // why they cannot be counted, where there is more to say than "none"
  std::optional<std::string> visible_devices;  // CUDA_VISIBLE_DEVICES
  int installed = -1;                          // GPUs of the driver; -1: it does not say
};

// FailedPrecondition, in one line with what is wanted and what is there: no driver, one of an older
// major version than the binary (within one, CUDA promises that any driver does), no visible GPU,
// or no GPU number `device` among them.
absl::Status CheckGpuFacts(const GpuFacts& facts, int device);

// FailedPrecondition unless the GPU is a Hopper: code for sm_90a runs on 9.0 and nothing else.
absl::Status CheckCapability(int device, absl::string_view name, int major, int minor);

}  // namespace baleen::kernels
