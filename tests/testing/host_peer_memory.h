#pragma once

#include <atomic>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/peer_memory.h"

namespace baleen::testing {

// Memory of a device for tests without one: this process's own, shared between its transports.
// Copies are carried out by Finished, unless `hold`. As kCuda it is memory that UCX does not know
// where there is no GPU.
class HostPeerMemory final : public PeerMemory {
 public:
  explicit HostPeerMemory(Kind kind = Kind::kHost) : kind_(kind) {}

  absl::StatusOr<std::string> Export(const std::byte* base, size_t bytes) override {
    const Mapping mapping = {const_cast<std::byte*>(base), bytes};
    return std::string(reinterpret_cast<const char*>(&mapping), sizeof(mapping));
  }
  absl::StatusOr<std::shared_ptr<const Mapping>> Import(absl::string_view exported) override {
    if (refuse) return absl::FailedPreconditionError("no peer access");
    Mapping mapping = {};
    if (exported.size() != sizeof(mapping)) return absl::InvalidArgumentError("not exported");
    std::memcpy(&mapping, exported.data(), sizeof(mapping));
    ++imports;
    return std::make_shared<const Mapping>(mapping);
  }
  uint64_t Copy(std::span<const Piece> pieces) override {
    pieces_.insert(pieces_.end(), pieces.begin(), pieces.end());
    ++copies;
    return ++started_;
  }
  uint64_t Finished() override {
    if (hold) return finished_;
    for (const Piece& piece : std::exchange(pieces_, {}))
      std::memcpy(piece.to, piece.from, piece.bytes);
    return finished_ = started_;
  }
  void MakeCurrent() override { ++threads; }
  Kind kind() const override { return kind_; }
  const char* name() const override { return "cuda_ipc"; }

  std::atomic<bool> refuse{false}, hold{false};
  std::atomic<int> imports{0}, copies{0}, threads{0};

 private:
  const Kind kind_;
  std::vector<Piece> pieces_;
  uint64_t started_ = 0, finished_ = 0;
};

}  // namespace baleen::testing
