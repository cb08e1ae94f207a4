#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/fingerprint.h"
#include "common/ids.h"

namespace baleen::kv_transfer {

// The control messages of kv_transfer. On the wire: little-endian, fields in the order declared
// here, a vector or string as u32 count + elements. Decoders check every length against the bytes
// present and refuse trailing bytes. Changing a field here changes the wire: bump kProtocolVersion.
//
// A frame (the header of one transport message) = kMagic u32 | type u8 | version u8 | 0 u16 | token
// u64, then the message. `token` is the LinkId that the *receiver* gave in its Hello (of Hello
// itself: the receiver's incarnation), so whatever belongs to an earlier life of either end is
// recognised and dropped. All messages may be repeated: the receiver's state is keyed by (grant,
// stage, chunk).
inline constexpr uint32_t kMagic = 0x4e4c4142;  // "BALN"
inline constexpr uint8_t kProtocolVersion = 3;
inline constexpr size_t kFrameBytes = 16;

enum class MessageType : uint8_t {
  kHello = 1,
  kHelloReply,
  kProbe,
  kProbeReply,
  kPing,
  kPong,
  kBye,
  kGrant,
  kGrantRevoke,
  kChunkDone,
  kHandoff,
  kRelease,
  kAbort,
  kDrain,
  kDrainAck,
};
// Types from here on are the workers' own (LinkTable::Send, SetHandler).
inline constexpr uint8_t kFirstUserType = 64;

struct Frame {
  uint8_t type = 0;
  uint64_t token = 0;
};

// A page pool that a peer may write (decode), or just describes (prefill: remote_key empty).
struct PoolExport {
  uint64_t base = 0;
  uint64_t page_stride = 0;
  uint64_t page_bytes = 0;
  uint32_t pages = 0;
  uint64_t page_offset = 0;  // where this process's bytes begin in decode's page
  std::string remote_key;

  bool operator==(const PoolExport&) const = default;
};

// Where a process lives, so that another one on the same machine can see it die.
struct ProcessIdentity {
  std::string boot_id;         // of the kernel
  uint64_t pid_namespace = 0;  // inode
  int32_t pid = 0;
  uint64_t start_time = 0;  // clock ticks since boot

  bool operator==(const ProcessIdentity&) const = default;
};

struct Hello {
  static constexpr MessageType kType = MessageType::kHello;
  Incarnation from;
  Incarnation to;
  uint64_t token = 0;    // address me with this on the link
  uint64_t answers = 0;  // the token of the Hello that made me open it; 0: I connect by myself
  std::string name;
  std::string transport_address;
  Fingerprint fingerprint;
  ProcessIdentity process;
  PoolExport pool;             // pages == 0: none
  uint64_t probe_address = 0;  // scratch for the peer's probe; probe_bytes == 0: none
  uint64_t probe_bytes = 0;
  std::string probe_key;
};
struct HelloReply {
  static constexpr MessageType kType = MessageType::kHelloReply;
  std::string refused;  // empty: accepted; else why, naming the field
};
// After a put of `bytes` into the scratch and a flush: the scratch should hash to `hash`.
struct Probe {
  static constexpr MessageType kType = MessageType::kProbe;
  uint64_t bytes = 0;
  uint64_t hash = 0;
};
struct ProbeReply {
  static constexpr MessageType kType = MessageType::kProbeReply;
  bool content_equal = false;
};
struct Ping {
  static constexpr MessageType kType = MessageType::kPing;
  uint64_t sequence = 0;
};
struct Pong {
  static constexpr MessageType kType = MessageType::kPong;
  uint64_t sequence = 0;
};
struct Bye {
  static constexpr MessageType kType = MessageType::kBye;
  std::string reason;
};

// Which parts of the cache a piece carries.
inline constexpr uint32_t kComponentLatent = 1;
inline constexpr uint32_t kComponentIndex = 2;
inline constexpr uint32_t kComponentDraft = 4;

// Decode lends `pages` to the writers of one attempt. Repeating it renews the time to live.
struct Grant {
  static constexpr MessageType kType = MessageType::kGrant;
  GrantId grant;
  AttemptId attempt;
  uint32_t ttl_ms = 0;  // no piece is posted later than this after arrival
  uint32_t stage = 0;   // the receiver's place among the writers
  uint32_t stages = 0;
  std::vector<uint32_t> pages;  // decode's page for prompt page i
};
struct GrantRevoke {  // decode no longer wants it; like Drain but nobody waits for an answer
  static constexpr MessageType kType = MessageType::kGrantRevoke;
  GrantId grant;
};
// Pages [first_page, first_page + page_count) of the prompt are visible at decode.
struct ChunkDone {
  static constexpr MessageType kType = MessageType::kChunkDone;
  GrantId grant;
  uint32_t stage = 0;
  uint32_t chunk = 0;  // counts from 0 within (grant, stage)
  uint32_t first_page = 0;
  uint32_t page_count = 0;
  uint32_t components = 0;
  uint64_t bytes = 0;
};

// What decode needs besides pages to take the first step.
struct HandoffRecord {
  uint32_t first_token = 0;
  uint32_t position = 0;       // of first_token: the number of prompt tokens
  uint32_t cached_tokens = 0;  // prompt tokens found in prefill's prefix cache
  uint64_t prompt_hash = 0;    // guards against two tokenisations
  std::vector<uint32_t> draft_tokens;
  std::string logprobs;  // serialised by the workers; may be empty

  bool operator==(const HandoffRecord&) const = default;
};
struct Handoff {
  static constexpr MessageType kType = MessageType::kHandoff;
  GrantId grant;
  AttemptId attempt;
  uint32_t stage = 0;
  uint32_t pages = 0;  // of the whole prompt: the manifest expected from every stage
  HandoffRecord record;
};
struct Release {  // decode took its first step
  static constexpr MessageType kType = MessageType::kRelease;
  GrantId grant;
  AttemptId attempt;
};
// Either direction: the sender gives the attempt up. Prefill to decode, `grant` may be 0.
struct Abort {
  static constexpr MessageType kType = MessageType::kAbort;
  GrantId grant;
  AttemptId attempt;
  uint32_t code = 0;  // absl::StatusCode
  std::string message;
};
struct Drain {  // stop posting for the grant and answer when nothing of it is in flight
  static constexpr MessageType kType = MessageType::kDrain;
  GrantId grant;
  AttemptId attempt;
};
struct DrainAck {
  static constexpr MessageType kType = MessageType::kDrainAck;
  GrantId grant;
  uint32_t stage = 0;
};

using Bytes = std::vector<std::byte>;

// A frame followed by nothing.
Bytes EncodeFrame(const Frame& frame);
// The frame at the start of `header`; the rest of the header is the message. InvalidArgument: not
// ours, or another protocol version (named).
absl::StatusOr<Frame> DecodeFrame(std::span<const std::byte> header);

// Any of the messages above, without frame. Decode: InvalidArgument when short, long or
// inconsistent.
template <typename Message>
Bytes Encode(const Message& message);
template <typename Message>
absl::StatusOr<Message> Decode(std::span<const std::byte> bytes);

}  // namespace baleen::kv_transfer
