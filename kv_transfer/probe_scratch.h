#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kv_transfer/transport.h"

namespace baleen::kv_transfer {

// Memory into which peers put their probe, one slot per link being probed. Slots are reused and
// live as long as this: a write that comes after its link broke may spoil a later probe, never
// foreign memory. Transport thread only.
class ProbeScratch {
 public:
  struct Slot {
    std::unique_ptr<std::byte[]> memory;
    RegionId region;
    std::string key;
  };

  ProbeScratch(Transport& transport, size_t bytes) : transport_(transport), bytes_(bytes) {}
  ~ProbeScratch();

  // nullptr: probes are switched off, or the memory could not be registered.
  Slot* Acquire();
  void Release(Slot* slot);  // nullptr is ignored
  size_t bytes() const { return bytes_; }

  // What a probe with `seed` writes, and its hash.
  static void Fill(std::span<std::byte> bytes, uint64_t seed);
  static uint64_t Hash(std::span<const std::byte> bytes);

 private:
  Transport& transport_;
  const size_t bytes_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<Slot*> free_;
};

}  // namespace baleen::kv_transfer
