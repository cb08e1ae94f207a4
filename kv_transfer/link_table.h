#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/fingerprint.h"
#include "common/ids.h"
#include "common/metrics.h"
#include "kv_transfer/messages.h"
#include "kv_transfer/peer_link.h"
#include "kv_transfer/transport.h"

namespace baleen::kv_transfer {

// One life of a link. After a failure Connect gives a new one, so an old id never means a new link.
using LinkId = StrongId<struct LinkIdTag, uint64_t>;

// What is known of a process before the link is up (the router's Member carries it).
struct PeerAddress {
  std::string name;  // for logs until its Hello tells its own, e.g. "decode-0/1"
  std::string transport_address;
  Incarnation incarnation;
};

// This process's page pool, as plain bytes. On a prefill stage a page holds the layers of the stage
// only: bytes [page_offset, page_offset + page_bytes) of the whole page that decode holds.
struct PagePoolView {
  std::byte* base = nullptr;
  size_t page_stride = 0;  // bytes from one page to the next
  size_t page_bytes = 0;
  int pages = 0;
  size_t page_offset = 0;
  MemoryKind memory = MemoryKind::kHost;

  std::byte* Page(PageId id) const { return base + size_t(id.value) * page_stride; }
};

struct LinkOptions {
  std::string name;  // of this process, e.g. "prefill-0/1"
  Incarnation incarnation;
  Fingerprint fingerprint;
  // Empty for a process without pages. The memory must outlive the transport.
  PagePoolView pool;
  bool peers_write_pool = false;  // decode: the pool is registered and its key given to peers
  // "", or what every link must be: a wire ("shm": posix, sysv or cma; "tcp", "rc") or the way of
  // pages ("cuda_ipc", "ucx_cuda").
  std::string require_transport;
  Duration heartbeat = std::chrono::seconds(1);
  Duration lease = std::chrono::seconds(6);  // for a sign of life; also for the probe's answer
  size_t probe_bytes = 256 << 10;            // 0: no put probe
};

struct LinkInfo {
  std::string peer_name;
  Incarnation peer;
  LinkState state = LinkState::kDown;
  std::string wire;                // "posix+cma", "tcp", ...
  std::string pages;               // how they leave our pool: "host", or Transport::DeviceWayName
  double probe_gb_per_s = 0;       // 0: not probed
  std::optional<PoolExport> pool;  // what the peer said of its page pool
};

// The links of one process: who is at the other end, is it alive, is it compatible; and the only
// way in which workers send. Handshake (Hello, fingerprint), probe, heartbeats and lease, fencing.
//
// Both ends have one: the side that calls Connect sends Hello, the other one answers and its link
// comes up too. Two ends that Connect at once get one link. A link breaks for good on a wire error,
// a refused fingerprint, a peer silent for a lease or Close; Connect then starts a new life (new
// LinkId).
//
// Threads: everything on the transport's thread unless said otherwise; callbacks too. Destroy it on
// any thread before `transport` and after KvSender/KvReceiver; the destructor closes all links.
class LinkTable {
 public:
  using Handler =
      std::function<void(LinkId from, std::span<const std::byte> header, Buffer payload)>;
  // Each change of state, with the reason when kFenced. kDown is not reported.
  using Observer = std::function<void(LinkId, LinkState, const absl::Status&)>;
  using Done = Transport::Done;

  // Registers the pool. Call on any thread; blocks for the transport's thread. `transport` and
  // `metrics` must outlive it. One LinkTable per transport.
  static absl::StatusOr<std::unique_ptr<LinkTable>> Create(Transport& transport,
                                                           const LinkOptions& options,
                                                           Metrics& metrics);
  ~LinkTable();

  LinkTable(const LinkTable&) = delete;
  LinkTable& operator=(const LinkTable&) = delete;

  Transport& transport();
  const LinkOptions& options() const;
  // PeerAddress of this process, to give to others. Any thread.
  PeerAddress Self() const;

  // The link to that life of the peer: the existing open one, or a new one in kConnecting. Failures
  // are reported to observers under the returned id. InvalidArgument: this process itself.
  absl::StatusOr<LinkId> Connect(const PeerAddress& peer);
  // The open link to `peer`, if any.
  std::optional<LinkId> Find(Incarnation peer) const;
  // nullopt: never existed, or forgotten.
  std::optional<LinkInfo> Info(LinkId link) const;
  std::vector<LinkId> Links() const;

  // One message of a worker's own `type` (kFirstUserType..255) or of kv_transfer's. Ordered per
  // link, any size; `payload` must stay valid until `done` (optional). Before the handshake is over
  // it waits; on a broken or unknown link `done` gets Unavailable.
  void Send(LinkId link, uint8_t type, std::span<const std::byte> header,
            std::span<const std::span<const std::byte>> payload = {}, Done done = {});
  // The receiver of messages of `type`, from every link. Set before links exist.
  void SetHandler(uint8_t type, Handler handler);
  // The receiver of one of kv_transfer's messages, decoded; nobody once `owner` is gone.
  template <typename Message, typename Owner>
  void SetHandler(std::weak_ptr<Owner> owner, void (Owner::*handle)(LinkId, const Message&)) {
    SetHandler(uint8_t(Message::kType),
               [this, owner, handle](LinkId link, std::span<const std::byte>, Buffer payload) {
                 const auto alive = owner.lock();
                 if (alive == nullptr) return;
                 const auto message = Decode<Message>(payload);
                 if (!message.ok()) return Drop("malformed");
                 (alive.get()->*handle)(link, *message);
               });
  }
  // Counts a message that was ignored, by cause.
  void Drop(const char* cause);
  void AddObserver(Observer observer);
  // One of kv_transfer's messages, encoded.
  template <typename Message>
  void SendMessage(LinkId link, const Message& message) {
    SendOwned(link, uint8_t(Message::kType), Encode(message));
  }

  // Puts each `local` into its page of the peer's pool, `offset` bytes into it. OutOfRange, and
  // nothing is put, unless all lie inside pages of the pool the peer exported; Unavailable unless
  // CarriesPages. Completion as Transport::Put.
  struct PagePut {
    std::span<const std::byte> local;
    PageId page;
  };
  void PutPages(LinkId link, std::span<const PagePut> puts, size_t offset, Done done);
  // The same for memory of the peer other than its page pool, whose key came in a message.
  // Unavailable: the link is down; ImportKey as Transport::ImportKey.
  absl::StatusOr<RemoteKeyId> ImportKey(LinkId link, absl::string_view packed);
  void Put(LinkId link, std::span<const Transport::Piece> pieces, RemoteKeyId key, Done done);
  void Flush(LinkId link, Done done);

  // Ends the link at once, as broken with `reason`; the peer is told if it can hear. What was sent
  // and not delivered is lost; of a link that was not up yet the peer may learn after a lease only.
  void Close(LinkId link, const absl::Status& reason);

  // No write of the peer over this link can touch our memory any more: the link is fenced and
  // either its wire drops late writes on our side or the peer's process is known to be gone. False
  // for open links. True for ids that were forgotten (only settled links are).
  bool Settled(LinkId link) const;
  // Our own end of it is over: no fetch of ours goes on. True for ids that were forgotten.
  bool Closed(LinkId link) const;
  // Somebody who knows (launcher, node agent) says that this life of a peer is over. Any thread.
  void ProcessGone(Incarnation peer);

 private:
  class Core;
  LinkTable();
  void SendOwned(LinkId link, uint8_t type, Bytes payload);
  std::shared_ptr<Core> core_;
};

}  // namespace baleen::kv_transfer
