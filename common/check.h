#pragma once

// Invariants only. What the network, a file or a peer can cause is an absl::Status, never a
// BALEEN_CHECK. Includes nothing, so .cu files may use it: spdlog's headers do not compile under
// nvcc in C++20 mode.
#define BALEEN_CHECK(cond) \
  ((cond) ? (void)0 : ::baleen::internal::CheckFailed(#cond, "", __FILE__, __LINE__))
#define BALEEN_CHECK_MSG(cond, detail) \
  ((cond) ? (void)0 : ::baleen::internal::CheckFailed(#cond, detail, __FILE__, __LINE__))

namespace baleen::internal {
// Logs and aborts the process.
[[noreturn]] void CheckFailed(const char* what, const char* detail, const char* file, int line);
}  // namespace baleen::internal
