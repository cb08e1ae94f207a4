#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baleen {

// Memory of a device that processes of one machine may map into each other, and copies from there.
// Of page pools a process only reads what it mapped and writes its own, so that nobody writes into
// pages that were given to another; an expert exchange's windows are there to be written.
//
// Threads: Export and MakeCurrent anywhere; everything else on one thread (the transport's).
class PeerMemory {
 public:
  // What the memory is to a library that copies it by itself.
  enum class Kind : uint8_t { kHost, kCuda };

  // A peer's memory as this process sees it; ends with the last reference.
  struct Mapping {
    std::byte* base;
    size_t bytes;
  };
  struct Piece {
    std::byte* to;
    const std::byte* from;
    size_t bytes;
  };

  virtual ~PeerMemory() = default;

  // Opaque bytes with which another process of this machine can Import [base, base + bytes).
  // FailedPrecondition: this memory or device cannot be shared.
  virtual absl::StatusOr<std::string> Export(const std::byte* base, size_t bytes) = 0;
  // InvalidArgument: not something that Export made. FailedPrecondition: it cannot be mapped here
  // (another machine, no peer access, its process is gone).
  virtual absl::StatusOr<std::shared_ptr<const Mapping>> Import(absl::string_view exported) = 0;

  // Starts copies, in any order among themselves, and numbers them from 1 on. Copies of one call
  // end before those of the next.
  virtual uint64_t Copy(std::span<const Piece> pieces) = 0;
  // The newest copy that has ended: its bytes are where any later work of this device sees them.
  virtual uint64_t Finished() = 0;

  // Makes the device the calling thread's current one, where such a library looks for it.
  virtual void MakeCurrent() = 0;
  virtual Kind kind() const = 0;
  virtual const char* name() const = 0;  // of the mechanism: "cuda_ipc"
};

}  // namespace baleen
