#pragma once

#include <utility>

#include "kv_transfer/messages.h"

namespace baleen::kv_transfer {

// Of this process. Fields stay empty where /proc does not say.
ProcessIdentity SelfIdentity();

// Watches another process of this machine, so that its death is proven and not guessed from
// silence.
class ProcessWatch {
 public:
  ProcessWatch() = default;  // watches nothing
  // Watches `peer` if it is on the same kernel and in the same PID namespace as `self`.
  ProcessWatch(const ProcessIdentity& peer, const ProcessIdentity& self);
  ProcessWatch(ProcessWatch&& other) noexcept { *this = std::move(other); }
  ProcessWatch& operator=(ProcessWatch&& other) noexcept;
  ~ProcessWatch();

  // The process has ended: none of its threads runs, so none can write our memory. False when it
  // lives or is not watched.
  bool Gone();

 private:
  int pid_fd_ = -1;
  bool gone_ = false;
};

}  // namespace baleen::kv_transfer
