#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/ids.h"
#include "kv_transfer/buffer.h"

namespace baleen::kv_transfer {

using EndpointId =
    StrongId<struct EndpointIdTag, uint64_t>;  // one connection attempt; never reused
using RemoteKeyId = StrongId<struct RemoteKeyIdTag, uint64_t>;  // an unpacked key of one endpoint
using RegionId = StrongId<struct RegionIdTag, uint64_t>;

// kDevice: what PeerMemory shares.
enum class MemoryKind : uint8_t { kHost, kDevice };

// Which ways bytes may take from one process's device to another's.
enum class DeviceWays : uint8_t {
  kAny,         // PeerMemory where the target can map the sender's memory, else UCX
  kPeerMemory,  // only that
  kUcx,         // only by UCX, as between machines
};

// The wire under one process: connections, remote writes, messages. Vocabulary after NIXL: agent
// (this), region, remote key, put, message. Knows nothing of requests, pages or peers' identity:
// LinkTable adds identity, liveness and framing, and is what workers use.
//
// Threads: one owner thread. Post, LocalAddress and OnOwnThread may be called from any thread;
// everything else only on the owner thread, where all callbacks also run. No call blocks. A `done`
// is called exactly once, never from inside the call it was given to.
//
// Lifetime: destroy it before what its callbacks use; the destructor closes every endpoint and
// joins the thread. Tasks posted before it run; tasks posted later are dropped.
class Transport {
 public:
  using Task = std::function<void()>;
  using Done = std::function<void(absl::Status)>;
  // `header` is valid during the call; `payload` is the receiver's to keep.
  using Receiver = std::function<void(std::span<const std::byte> header, Buffer payload)>;
  using FailureObserver = std::function<void(EndpointId, absl::Status)>;

  // Longest header of one message.
  static constexpr size_t kMaxHeaderBytes = 4096;

  // When may the owner of a region reuse memory that a failed endpoint's peer might write?
  // (docs/failures.md; docs/decisions/0005-transfer-fences.md has the evidence)
  enum class Fence : uint8_t {
    kOwnClose,   // once Close(endpoint) is done: late writes are dropped on this side
    kPeerDeath,  // only once the peer's process is gone, or it acknowledged
  };

  virtual ~Transport() = default;

  // Runs `task` on the owner thread, FIFO. Any thread; never blocks. Wakes the thread only if it
  // sleeps, so hand over several sends with one Post where you can.
  virtual void Post(Task task) = 0;
  // Runs `tick` on the owner thread about every `period` until it returns false. Any thread.
  virtual void Every(Duration period, std::function<bool()> tick) = 0;
  virtual bool OnOwnThread() const = 0;
  virtual const Clock& clock() const = 0;

  // Opaque bytes with which any process of the cluster can Open this one. Constant. Any thread.
  virtual std::string LocalAddress() const = 0;

  // Lets peers write [base, base + bytes), and this process put from it; host memory can be put
  // from without. The memory must outlive the region. Unimplemented: no such memory here.
  virtual absl::StatusOr<RegionId> RegisterRegion(MemoryKind kind, void* base, size_t bytes) = 0;
  virtual void DeregisterRegion(RegionId region) = 0;
  // Opaque bytes a peer needs to write that region.
  virtual absl::StatusOr<std::string> PackRemoteKey(RegionId region) = 0;

  // A connection to the process at `address`. Returns at once; whether the peer answers shows only
  // in messages. InvalidArgument: not an address. Unavailable: no usable wire to it.
  virtual absl::StatusOr<EndpointId> Open(absl::string_view address) = 0;
  // Drops the connection by force. Outstanding operations complete with Cancelled, later; keys die.
  // The failure observer is not called. `closed` comes once nothing of it is left here (see Fence).
  // Unknown endpoints are closed already.
  virtual void Close(EndpointId endpoint, Task closed) = 0;
  // Called while a message is delivered: that came from the other end of `endpoint`, and only that
  // end's puts are carried out, until Close. Nobody said so: it is the first end of the peer's that
  // puts after Open.
  virtual void Bind(EndpointId endpoint) = 0;
  virtual absl::StatusOr<RemoteKeyId> ImportKey(EndpointId endpoint, absl::string_view packed) = 0;

  // Agrees with the peer on the way that bytes of our kDevice regions take over this endpoint; at
  // least one must be registered, and none is put before `done`. FailedPrecondition: there is no
  // way; it says what is missing. Unimplemented: no such memory here.
  virtual void AgreeOnDeviceWay(EndpointId endpoint, Done done) = 0;
  // What was agreed: "cuda_ipc" (the peer's device maps ours) or "ucx_cuda" (UCX carries them over
  // the wire); "" before.
  virtual std::string DeviceWayName(EndpointId endpoint) = 0;

  struct Piece {
    std::span<const std::byte> local;
    uint64_t remote_address = 0;
  };
  // Writes each piece's `local` to its `remote_address` in the peer's region of `key`; at least one
  // piece, all of the kind of memory that the region is. `done` means that every `local` may be
  // reused, not that the peer sees the bytes: that is Flush, and a put that the peer refuses may
  // show only there.
  virtual void Put(EndpointId endpoint, std::span<const Piece> pieces, RemoteKeyId key,
                   Done done) = 0;
  // `done(Ok)`: every Put so far on this endpoint is visible at the peer. A message sent after it
  // is therefore seen after the bytes.
  virtual void Flush(EndpointId endpoint, Done done) = 0;
  // One message, any size; messages of one endpoint arrive in order. `header` is copied, `payload`
  // (its pieces are concatenated) must stay valid until `done`.
  virtual void Send(EndpointId endpoint, std::span<const std::byte> header,
                    std::span<const std::span<const std::byte>> payload, Done done) = 0;

  // Called for every arriving message. Set once, before the first Open or address hand-out.
  virtual void SetReceiver(Receiver receiver) = 0;
  // Called once when an open endpoint breaks. Then call Close.
  virtual void SetFailureObserver(FailureObserver observer) = 0;

  // What the wire really is, e.g. "posix+cma", "tcp", "rc_mlx5"; "" before the first answer.
  virtual std::string WireName(EndpointId endpoint) = 0;
  virtual Fence FenceOf(EndpointId endpoint) = 0;
};

// To be called once for each of `count` parts: the last one calls `done` with the first error.
Transport::Done DoneAfter(size_t count, Transport::Done done);

// Runs `f` on the transport's thread and waits for it. Any thread.
inline void RunOn(Transport& transport, const std::function<void()>& f) {
  if (transport.OnOwnThread()) return f();
  std::promise<void> done;
  transport.Post([&] {
    f();
    done.set_value();
  });
  done.get_future().wait();
}

}  // namespace baleen::kv_transfer
