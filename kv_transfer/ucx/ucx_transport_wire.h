#pragma once

#include <cstdint>
#include <cstring>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kv_transfer/messages.h"
#include "kv_transfer/transport.h"

namespace baleen::kv_transfer {

// The headers of our active messages, in the byte order of the machine (all of a cluster are alike:
// the frame inside says so), and how addresses and keys travel.
enum : unsigned {
  kMessageId = 0,
  kPutId = 1,
  kFlushId = 2,
  kFlushReplyId = 3,
  kDevicePutId = 4,
  kDeviceAskId = 5,
  kDeviceAnswerId = 6
};

// Begins every header: who sent it over which of its endpoints.
struct Prefix {
  uint64_t process;
  uint64_t endpoint;
  uint64_t sequence;  // of kMessageId, and of both kinds of put; each from 0 within the endpoint
};
struct PutHeader {
  Prefix prefix;
  uint64_t region;
  uint64_t address;
  MemoryKind kind;  // of the bytes; the region's must be the same
  uint8_t reserved[7];
};
// A put by PeerMemory. The payload is what its Export said of the sender's region, then
// DevicePieces: the target's device fetches them from there.
struct DevicePutHeader {
  Prefix prefix;
  uint64_t region;
  uint64_t exported_bytes;
};
struct DevicePiece {
  uint64_t address;  // in the target's region
  uint64_t offset;   // in the sender's
  uint64_t bytes;
};
inline constexpr size_t kMostDevicePieces = 128;  // of one put: 3 KB, which UCX sends at once

struct FlushHeader {  // also of the reply, whose prefix.endpoint is the asker's
  Prefix prefix;
  uint64_t flush;  // 0 in the reply to a device put, which is answered like a flush after it
  uint64_t puts;   // answer once this many puts are carried out
  uint64_t code;   // reply: ucs_status_t of the first put that could not be, negated
};

// The way that bytes from one device to another take over an endpoint.
enum class DeviceWay : uint8_t { kNone, kPeerMemory, kUcx };
// Asks the target for it. The payload is what PeerMemory::Export said of a region of the sender's;
// empty: it is not to be mapped.
struct DeviceAskHeader {
  Prefix prefix;
  uint64_t ask;
  uint64_t by_ucx;  // 1: the sender's UCX carries memory of its device
};
// The answer's payload says what is missing when there is none.
struct DeviceAnswerHeader {
  Prefix prefix;  // endpoint: the asker's
  uint64_t ask;
  DeviceWay way;
  uint8_t reserved[7];
};

template <typename Header>
Bytes ToBytes(const Header& header) {
  const auto* begin = reinterpret_cast<const std::byte*>(&header);
  return Bytes(begin, begin + sizeof(header));
}

// False unless `bytes` is exactly one Header.
template <typename Header>
bool FromBytes(const void* data, size_t bytes, Header* header) {
  if (bytes != sizeof(Header)) return false;
  std::memcpy(header, data, sizeof(Header));
  return true;
}

// UCX trusts addresses blindly, so what crosses the wire carries a tag, a checksum and a number.
struct Sealed {
  uint64_t number = 0;
  std::string bytes;
};
std::string Seal(absl::string_view tag, uint64_t number, absl::string_view bytes);
// InvalidArgument when it is not something that Seal made with that tag.
absl::StatusOr<Sealed> Unseal(absl::string_view tag, absl::string_view sealed);

}  // namespace baleen::kv_transfer
