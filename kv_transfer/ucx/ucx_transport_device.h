#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/peer_memory.h"
#include "kv_transfer/ucx/handle.h"
#include "kv_transfer/ucx/ucx_transport.h"
#include "kv_transfer/ucx/ucx_transport_wire.h"

namespace baleen::kv_transfer {

// The answer to a DeviceAsk. `mapped`: could the target map what the sender exported? The others:
// does UCX carry memory of the device there, and here? FailedPrecondition says what is missing.
absl::StatusOr<DeviceWay> ChooseDeviceWay(const absl::Status& mapped, bool ucx_of_sender,
                                          bool ucx_of_target);

// This process's device as the transport sees it: its regions, and how bytes may leave them.
// Without a device it has no regions. Owner thread, but for the constructor.
class UcxDevice {
 public:
  struct Region {
    std::byte* base;
    size_t bytes;
    std::string exported;              // by PeerMemory; empty: not to be mapped
    UcpMemory memory = {nullptr, {}};  // once bytes go by UCX

    bool Holds(std::span<const std::byte> piece) const {
      return piece.data() >= base && piece.size() <= bytes &&
             size_t(piece.data() - base) <= bytes - piece.size();
    }
  };

  // `context` must outlive it. Asks UCX whether it knows the device's kind of memory.
  UcxDevice(PeerMemory* memory, DeviceWays ways, ucp_context_h context);

  // Unimplemented: there is no device. FailedPrecondition: no way leads out of this memory.
  absl::Status Register(uint64_t id, std::byte* base, size_t bytes);
  void Deregister(uint64_t id);
  // The region that `p` lies in; nullptr: none of the device's.
  const Region* Find(const std::byte* p) const;
  // Some region; nullptr: there is none.
  const Region* Any() const { return regions_.empty() ? nullptr : &regions_.begin()->second; }

  // May UCX move bytes of the device's memory, and can it?
  bool by_ucx() const { return by_ucx_; }
  // Registers all regions with UCX, and those that follow.
  absl::Status UseUcx();

  // A peer's memory, from what it exported. FailedPrecondition: not here, or not to be used.
  absl::StatusOr<std::shared_ptr<const PeerMemory::Mapping>> Import(absl::string_view exported);

  PeerMemory* memory() const { return memory_; }  // nullptr: no device
  ucs_memory_type_t type() const { return type_; }
  const char* name(DeviceWay way) const;

 private:
  absl::Status Map(Region& region) const;

  PeerMemory* const memory_;
  const DeviceWays ways_;
  const ucp_context_h context_;
  const ucs_memory_type_t type_;
  const bool by_ucx_;
  bool using_ucx_ = false;
  std::map<uint64_t, Region> regions_;
  std::vector<UcpMemory> retired_;  // UCX may still be at work there
};

}  // namespace baleen::kv_transfer
