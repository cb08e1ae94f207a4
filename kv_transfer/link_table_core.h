#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kv_transfer/link_table.h"
#include "kv_transfer/probe_scratch.h"
#include "kv_transfer/process_identity.h"

namespace baleen::kv_transfer {

// The inside of LinkTable: link_table_core.cc opens links (handshake, probe), link_table.cc uses
// and ends them. Transport thread only.
struct Link {  // one life
  LinkId id;
  PeerAddress peer;
  LinkState state = LinkState::kDown;
  absl::Status reason;
  EndpointId endpoint;
  bool endpoint_closed = false;
  uint64_t peer_token = 0;  // 0: no Hello yet
  bool accepted = false, accepted_by_peer = false;
  Hello hello;  // the peer's
  RemoteKeyId pool_key;
  ProcessWatch process;
  bool process_gone = false;
  TimePoint heard, pinged;
  TimePoint probing;  // entry into kProbing
  uint64_t pings = 0;
  std::vector<std::function<void()>> waiting;  // sends before the handshake is over
  ProbeScratch::Slot* scratch = nullptr;
  double probe_gb_per_s = 0;
  std::string wire, pages;
  Transport::Fence fence = Transport::Fence::kPeerDeath;

  bool PeerCouldWrite() const { return peer_token != 0; }
};

class LinkTable::Core : public std::enable_shared_from_this<LinkTable::Core> {
 public:
  Core(Transport& transport, LinkOptions options, Metrics& metrics)
      : transport_(transport),
        options_(std::move(options)),
        metrics_(metrics),
        process_(SelfIdentity()),
        scratch_(transport, options_.probe_bytes),
        fences_(metrics.Counter("transfer_fences_total", "Links closed by force")) {}

  absl::Status Start();
  void Stop();

  absl::StatusOr<LinkId> Connect(const PeerAddress& peer);
  std::optional<LinkId> Find(Incarnation peer) const;
  std::optional<LinkInfo> Info(LinkId id) const;
  std::vector<LinkId> Links() const;
  void Send(LinkId id, uint8_t type, std::span<const std::byte> header,
            std::span<const std::span<const std::byte>> payload, Done done);
  void SendOwned(LinkId id, uint8_t type, Bytes payload);
  void PutPages(LinkId id, std::span<const PagePut> puts, size_t offset, Done done);
  absl::StatusOr<RemoteKeyId> ImportKey(LinkId id, absl::string_view packed);
  void Put(LinkId id, std::span<const Transport::Piece> pieces, RemoteKeyId key, Done done);
  void Flush(LinkId id, Done done);
  void Close(LinkId id, const absl::Status& reason);
  bool Settled(LinkId id) const;
  bool Closed(LinkId id) const;
  void Drop(const char* cause);
  void ProcessGone(Incarnation peer);

  Transport& transport_;
  const LinkOptions options_;
  Metrics& metrics_;
  std::array<Handler, 256> handlers_;
  std::vector<Observer> observers_;

 private:
  // `answers`: the token of the Hello that asks for it; 0: none.
  Link& Open(const PeerAddress& peer, uint64_t answers);
  Link* Get(LinkId id) const;
  void OnMessage(std::span<const std::byte> header, Buffer payload);
  void OnControl(Link& link, const Frame& frame, Buffer payload);
  void OnHello(const Hello& hello);
  void OnHelloReply(Link& link, const HelloReply& reply);
  void OnProbe(Link& link, const Probe& probe);
  void OnProbeReply(Link& link, const ProbeReply& reply);
  void Accept(Link& link, const Hello& hello);
  void Refuse(Link& link, const std::string& why);
  void MaybeHandshaken(Link& link);
  void StartProbe(Link& link);
  void ProbePut(Link& link);
  void Probed(Link& link);
  void FinishProbe(LinkId id, std::shared_ptr<Bytes> bytes, TimePoint start, const absl::Status& s);
  absl::Status CheckWire(Link& link);
  prometheus::Gauge& LinkGauge(const Link& link);
  void Apply(Link& link, LinkEvent event, const absl::Status& reason = absl::OkStatus());
  void Fail(Link& link, const absl::Status& reason);
  void SendFrame(Link& link, uint8_t type, uint64_t token, std::span<const std::byte> header,
                 std::span<const std::span<const std::byte>> payload, Done done);
  void SendHello(Link& link, uint64_t answers);
  void OnEndpointFailed(EndpointId endpoint, const absl::Status& why);
  bool Tick();
  void TickOpen(Link& link, TimePoint now);
  void PostDone(Done done, absl::Status status);
  template <typename F>
  auto Weakly(F f) {  // f(core) unless this is gone by then
    return [weak = weak_from_this(), f = std::move(f)](auto&&... args) {
      if (auto core = weak.lock()) f(*core, std::forward<decltype(args)>(args)...);
    };
  }

  const ProcessIdentity process_;
  PoolExport pool_;
  std::optional<RegionId> pool_region_;
  ProbeScratch scratch_;
  prometheus::Counter& fences_;
  std::map<uint64_t, std::unique_ptr<Link>> links_;
  std::map<uint64_t, LinkId> open_;  // by the peer's incarnation
  TimePoint last_tick_;
  bool stopped_ = false;
};

}  // namespace baleen::kv_transfer
