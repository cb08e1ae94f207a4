#pragma once

#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"

namespace baleen::kernels::cuda {

// What one kernel, or one direction of copies, took on the device.
struct KernelTotal {
  std::string name;     // without namespaces and arguments; "copy in", "copy out", "copy", "set"
  bool launch = false;  // a kernel
  int count = 0;
  double microseconds = 0;
};

// Runs `run`, which must wait for the device before it returns, and gives the kernels and copies
// that ran meanwhile in this process, the largest total first. From CUPTI's activity records: the
// times of kernels are true, the host is slowed down. One call at a time. Unavailable says what
// CUPTI said.
absl::StatusOr<std::vector<KernelTotal>> ProfileKernels(absl::FunctionRef<void()> run);

// "GateKernel<4>" from the compiler's name of a kernel.
std::string ReadableKernelName(const char* mangled);

}  // namespace baleen::kernels::cuda
