#include "kv_transfer/link_table.h"

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "kv_transfer/probe_scratch.h"
#include "kv_transfer/process_identity.h"
#include "spdlog/spdlog.h"

namespace baleen::kv_transfer {
namespace {

constexpr Duration kTick = std::chrono::milliseconds(20);

// Does a wire like "posix+cma" satisfy require_transport?
bool Satisfies(const std::string& wire, const std::string& required) {
  if (required.empty()) return true;
  const std::vector<std::string> parts = absl::StrSplit(wire, '+');
  const auto one_of = [](const std::string& part, std::initializer_list<const char*> names) {
    return std::find(names.begin(), names.end(), part) != names.end();
  };
  if (required == "cuda_ipc" || required == "gpu")  // others may carry the control messages
    return std::any_of(parts.begin(), parts.end(), [](auto& p) { return p == "cuda_ipc"; });
  return std::all_of(parts.begin(), parts.end(), [&](const std::string& part) {
    if (required == "shm") return one_of(part, {"posix", "sysv", "cma", "xpmem", "knem", "self"});
    return part == required || absl::StartsWith(part, required + "_");
  });
}

}  // namespace

struct Link {
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
  uint64_t pings = 0;
  std::vector<std::function<void()>> waiting;  // sends before the handshake is over
  ProbeScratch::Slot* scratch = nullptr;
  double probe_gb_per_s = 0;
  std::string wire;
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
  void PutPage(LinkId id, std::span<const std::byte> local, PageId page, size_t offset, Done done);
  void Flush(LinkId id, Done done);
  void Close(LinkId id, const absl::Status& reason);
  bool Settled(LinkId id) const;
  void ProcessGone(Incarnation peer);

  Transport& transport_;
  const LinkOptions options_;
  Metrics& metrics_;
  std::array<Handler, 256> handlers_;
  std::vector<Observer> observers_;

 private:
  Link& Open(const PeerAddress& peer);
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
  void FinishProbe(LinkId id, std::shared_ptr<Bytes> bytes, TimePoint start, const absl::Status& s);
  absl::Status CheckWire(Link& link);
  void Apply(Link& link, LinkEvent event, const absl::Status& reason = absl::OkStatus());
  void Fail(Link& link, const absl::Status& reason);
  void SendFrame(Link& link, uint8_t type, uint64_t token, std::span<const std::byte> header,
                 std::span<const std::span<const std::byte>> payload, Done done);
  void SendHello(Link& link);
  void OnEndpointFailed(EndpointId endpoint, const absl::Status& why);
  bool Tick();
  void TickOpen(Link& link, TimePoint now);
  void Drop(const char* cause);
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

// ---- life of the table -------------------------------------------------------------------------

absl::Status LinkTable::Core::Start() {
  const PagePoolView& pool = options_.pool;
  pool_ = {.base = reinterpret_cast<uint64_t>(pool.base),
           .page_stride = pool.page_stride,
           .page_bytes = pool.page_bytes,
           .pages = uint32_t(pool.pages),
           .page_offset = pool.page_offset};
  if (options_.peers_write_pool) {
    BALEEN_ASSIGN_OR_RETURN(
        RegionId region,
        transport_.RegisterRegion(pool.memory, pool.base, pool.page_stride * size_t(pool.pages)));
    pool_region_ = region;
    BALEEN_ASSIGN_OR_RETURN(pool_.remote_key, transport_.PackRemoteKey(region));
  }
  transport_.SetReceiver(
      [weak = weak_from_this()](std::span<const std::byte> header, Buffer payload) {
        if (auto core = weak.lock()) core->OnMessage(header, std::move(payload));
      });
  transport_.SetFailureObserver(Weakly([](Core& core, EndpointId endpoint, absl::Status why) {
    core.OnEndpointFailed(endpoint, why);
  }));
  last_tick_ = transport_.clock().Now();
  transport_.Every(kTick, [weak = weak_from_this()] {
    auto core = weak.lock();
    return core != nullptr && core->Tick();
  });
  return absl::OkStatus();
}

void LinkTable::Core::Stop() {
  stopped_ = true;
  observers_.clear();
  for (LinkId id : Links())
    if (Link* link = Get(id); link != nullptr && IsOpen(link->state))
      Close(id, absl::CancelledError(absl::StrCat(options_.name, " leaves")));
  if (pool_region_) transport_.DeregisterRegion(*pool_region_);
}

// ---- opening and the handshake -----------------------------------------------------------------

Link& LinkTable::Core::Open(const PeerAddress& peer) {
  auto owned = std::make_unique<Link>();
  Link& link = *owned;
  link.id = LinkId{RandomId()};
  link.peer = peer;
  link.heard = link.pinged = transport_.clock().Now();
  links_[link.id.value] = std::move(owned);
  open_[peer.incarnation.value] = link.id;
  Apply(link, LinkEvent::kConnect);
  const auto endpoint = transport_.Open(peer.transport_address);
  if (!endpoint.ok()) {
    link.endpoint_closed = true;
    transport_.Post(Weakly([id = link.id, why = endpoint.status()](Core& core) {
      if (Link* l = core.Get(id)) core.Fail(*l, why);
    }));
    return link;
  }
  link.endpoint = *endpoint;
  link.fence = transport_.FenceOf(link.endpoint);
  SendHello(link);
  return link;
}

absl::StatusOr<LinkId> LinkTable::Core::Connect(const PeerAddress& peer) {
  if (peer.incarnation == options_.incarnation)
    return absl::InvalidArgumentError(absl::StrCat("link from ", options_.name, " to itself"));
  if (peer.incarnation.value == 0)
    return absl::InvalidArgumentError(absl::StrCat(peer.name, ": no incarnation"));
  if (const auto open = open_.find(peer.incarnation.value); open != open_.end())
    return open->second;
  return Open(peer).id;
}

void LinkTable::Core::SendHello(Link& link) {
  Hello hello = {.from = options_.incarnation,
                 .to = link.peer.incarnation,
                 .token = link.id.value,
                 .name = options_.name,
                 .transport_address = transport_.LocalAddress(),
                 .fingerprint = options_.fingerprint,
                 .process = process_,
                 .pool = pool_};
  link.scratch = scratch_.Acquire();
  if (link.scratch != nullptr) {
    hello.probe_address = reinterpret_cast<uint64_t>(link.scratch->memory.get());
    hello.probe_bytes = scratch_.bytes();
    hello.probe_key = link.scratch->key;
  }
  auto bytes = std::make_shared<Bytes>(Encode(hello));
  const std::span<const std::byte> payload = *bytes;
  SendFrame(link, uint8_t(Hello::kType), link.peer.incarnation.value, {}, {&payload, 1},
            [bytes](const absl::Status&) {});
}

void LinkTable::Core::OnHello(const Hello& hello) {
  if (hello.to != options_.incarnation || hello.token == 0) return Drop("stale_incarnation");
  Link* link = nullptr;
  if (const auto open = open_.find(hello.from.value); open != open_.end()) {
    link = Get(open->second);
    if (link->peer_token == hello.token) return Drop("repeated");
    if (link->peer_token != 0) {  // the peer gave that life up and we did not hear of it
      Fail(*link, absl::UnavailableError(absl::StrCat(hello.name, " started a new link")));
      link = nullptr;
    }
  }
  if (link == nullptr) {
    if (stopped_) return Drop("stopped");
    link = &Open({.name = hello.name,
                  .transport_address = hello.transport_address,
                  .incarnation = hello.from});
  }
  if (link->endpoint_closed) return;
  Accept(*link, hello);
}

void LinkTable::Core::Accept(Link& link, const Hello& hello) {
  link.peer_token = hello.token;
  link.hello = hello;
  link.heard = transport_.clock().Now();
  if (link.peer.name.empty()) link.peer.name = hello.name;
  link.process = ProcessWatch(hello.process, process_);
  if (const auto difference = FirstDifference(options_.fingerprint, hello.fingerprint))
    return Refuse(link, *difference);
  if (!hello.pool.remote_key.empty()) {
    const auto key = transport_.ImportKey(link.endpoint, hello.pool.remote_key);
    if (!key.ok()) return Refuse(link, absl::StrCat("page pool key: ", key.status().message()));
    link.pool_key = *key;
  }
  link.accepted = true;
  SendOwned(link.id, uint8_t(HelloReply::kType), Encode(HelloReply{}));
  MaybeHandshaken(link);
}

void LinkTable::Core::Refuse(Link& link, const std::string& why) {
  SendOwned(link.id, uint8_t(HelloReply::kType), Encode(HelloReply{.refused = why}));
  const auto error =
      absl::FailedPreconditionError(absl::StrCat("link to ", link.peer.name, " refused: ", why));
  transport_.Flush(link.endpoint, Weakly([id = link.id, error](Core& core, const absl::Status&) {
                     if (Link* l = core.Get(id)) core.Fail(*l, error);
                   }));
}

void LinkTable::Core::OnHelloReply(Link& link, const HelloReply& reply) {
  if (!reply.refused.empty())
    return Fail(link, absl::FailedPreconditionError(
                          absl::StrCat("refused by ", link.peer.name, ": ", reply.refused)));
  link.accepted_by_peer = true;
  MaybeHandshaken(link);
}

void LinkTable::Core::MaybeHandshaken(Link& link) {
  if (link.state != LinkState::kConnecting || !link.accepted || !link.accepted_by_peer) return;
  link.fence = transport_.FenceOf(link.endpoint);
  if (const absl::Status wire = CheckWire(link); !wire.ok()) {
    SendOwned(link.id, uint8_t(Bye::kType), Encode(Bye{.reason = std::string(wire.message())}));
    return Fail(link, wire);
  }
  const LinkId id = link.id;
  Apply(link, LinkEvent::kAccepted);
  for (auto& send : std::exchange(link.waiting, {})) send();
  if (Link* l = Get(id); l != nullptr && l->state == LinkState::kProbing) StartProbe(*l);
}

absl::Status LinkTable::Core::CheckWire(Link& link) {
  link.wire = transport_.WireName(link.endpoint);
  if (Satisfies(link.wire, options_.require_transport)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("require_transport: ", options_.require_transport, ", but the link between ",
                   options_.name, " and ", link.peer.name, " runs over ", link.wire));
}

// ---- probe -------------------------------------------------------------------------------------

void LinkTable::Core::StartProbe(Link& link) {
  const size_t bytes = std::min<size_t>(options_.probe_bytes, link.hello.probe_bytes) & ~size_t{7};
  const auto key = bytes > 0 ? transport_.ImportKey(link.endpoint, link.hello.probe_key)
                             : absl::StatusOr<RemoteKeyId>(RemoteKeyId{});
  if (!key.ok()) return Fail(link, key.status());
  if (bytes == 0) return Apply(link, LinkEvent::kProbeOk);
  auto content = std::make_shared<Bytes>(bytes);
  ProbeScratch::Fill(*content, link.id.value);
  const TimePoint start = transport_.clock().Now();
  transport_.Put(link.endpoint, *content, link.hello.probe_address, *key,
                 [content](const absl::Status&) {});
  transport_.Flush(link.endpoint,
                   Weakly([id = link.id, content, start](Core& core, const absl::Status& status) {
                     core.FinishProbe(id, content, start, status);
                   }));
}

void LinkTable::Core::FinishProbe(LinkId id, std::shared_ptr<Bytes> bytes, TimePoint start,
                                  const absl::Status& status) {
  Link* link = Get(id);
  if (link == nullptr || link->state != LinkState::kProbing) return;
  if (!status.ok()) return Fail(*link, status);
  const double seconds = std::chrono::duration<double>(transport_.clock().Now() - start).count();
  if (seconds > 0) link->probe_gb_per_s = double(bytes->size()) / seconds / 1e9;
  SendOwned(id, uint8_t(Probe::kType),
            Encode(Probe{.bytes = bytes->size(), .hash = ProbeScratch::Hash(*bytes)}));
}

void LinkTable::Core::OnProbe(Link& link, const Probe& probe) {
  if (link.scratch == nullptr || probe.bytes > scratch_.bytes()) return Drop("unexpected");
  const bool equal =
      ProbeScratch::Hash({link.scratch->memory.get(), size_t(probe.bytes)}) == probe.hash;
  scratch_.Release(std::exchange(link.scratch, nullptr));
  SendOwned(link.id, uint8_t(ProbeReply::kType), Encode(ProbeReply{.content_equal = equal}));
  if (!equal) spdlog::error("probe from {} arrived with wrong content", link.peer.name);
}

void LinkTable::Core::OnProbeReply(Link& link, const ProbeReply& reply) {
  if (link.state != LinkState::kProbing) return Drop("unexpected");
  if (!reply.content_equal)
    return Fail(link, absl::DataLossError(absl::StrCat("probe to ", link.peer.name, " over ",
                                                       link.wire, " arrived with wrong content")));
  if (const absl::Status wire = CheckWire(link); !wire.ok()) return Close(link.id, wire);
  Apply(link, LinkEvent::kProbeOk);
}

// ---- frames ------------------------------------------------------------------------------------

void LinkTable::Core::SendFrame(Link& link, uint8_t type, uint64_t token,
                                std::span<const std::byte> header,
                                std::span<const std::span<const std::byte>> payload, Done done) {
  Bytes whole = EncodeFrame({.type = type, .token = token});
  whole.insert(whole.end(), header.begin(), header.end());
  if (!done) done = [](const absl::Status&) {};
  transport_.Send(link.endpoint, whole, payload, std::move(done));
}

void LinkTable::Core::Send(LinkId id, uint8_t type, std::span<const std::byte> header,
                           std::span<const std::span<const std::byte>> payload, Done done) {
  Link* link = Get(id);
  if (link == nullptr || !IsOpen(link->state))
    return PostDone(std::move(done), absl::UnavailableError("link is down"));
  BALEEN_CHECK(header.size() + kFrameBytes <= Transport::kMaxHeaderBytes);
  const bool handshake = type < uint8_t(MessageType::kGrant);
  if (!handshake && !CarriesMessages(link->state)) {
    link->waiting.push_back(
        [this, id, type, header = Bytes(header.begin(), header.end()),
         payload = std::vector<std::span<const std::byte>>(payload.begin(), payload.end()),
         done = std::move(done)] { Send(id, type, header, payload, done); });
    return;
  }
  SendFrame(*link, type, link->peer_token, header, payload, std::move(done));
}

void LinkTable::Core::SendOwned(LinkId id, uint8_t type, Bytes payload) {
  auto bytes = std::make_shared<Bytes>(std::move(payload));
  const std::span<const std::byte> piece = *bytes;
  Send(id, type, {}, {&piece, 1}, [bytes](const absl::Status&) {});
}

void LinkTable::Core::OnMessage(std::span<const std::byte> header, Buffer payload) {
  const auto frame = DecodeFrame(header);
  if (!frame.ok()) {
    spdlog::warn("dropped a message: {}", frame.status().ToString());
    return Drop("malformed");
  }
  if (frame->type == uint8_t(MessageType::kHello)) {
    if (frame->token != options_.incarnation.value) return Drop("stale_incarnation");
    const auto hello = Decode<Hello>(payload);
    return hello.ok() ? OnHello(*hello) : Drop("malformed");
  }
  Link* link = Get(LinkId{frame->token});
  if (link == nullptr || !IsOpen(link->state) || link->peer_token == 0) return Drop("stale_link");
  link->heard = transport_.clock().Now();
  if (link->state == LinkState::kSuspect) Apply(*link, LinkEvent::kHeard);
  if (frame->type < uint8_t(MessageType::kGrant))
    return OnControl(*link, *frame, std::move(payload));
  if (!CarriesMessages(link->state)) return Drop("before_handshake");
  const Handler& handler = handlers_[frame->type];
  if (!handler) return Drop("unknown_type");
  handler(link->id, header.subspan(kFrameBytes), std::move(payload));
}

void LinkTable::Core::OnControl(Link& link, const Frame& frame, Buffer payload) {
  const auto with = [&](auto message, auto handle) {
    return message.ok() ? handle(*message) : Drop("malformed");
  };
  switch (MessageType(frame.type)) {
    case MessageType::kHelloReply:
      return with(Decode<HelloReply>(payload), [&](const HelloReply& m) { OnHelloReply(link, m); });
    case MessageType::kProbe:
      return with(Decode<Probe>(payload), [&](const Probe& m) { OnProbe(link, m); });
    case MessageType::kProbeReply:
      return with(Decode<ProbeReply>(payload), [&](const ProbeReply& m) { OnProbeReply(link, m); });
    case MessageType::kPing:
      return with(Decode<Ping>(payload), [&](const Ping& m) {
        SendOwned(link.id, uint8_t(Pong::kType), Encode(Pong{.sequence = m.sequence}));
      });
    case MessageType::kPong:
      return;  // hearing it was all
    case MessageType::kBye:
      return with(Decode<Bye>(payload), [&](const Bye& m) {
        Fail(link, absl::UnavailableError(absl::StrCat(link.peer.name, ": ", m.reason)));
      });
    case MessageType::kHello:
    case MessageType::kGrant:
    case MessageType::kGrantRevoke:
    case MessageType::kChunkDone:
    case MessageType::kHandoff:
    case MessageType::kRelease:
    case MessageType::kAbort:
    case MessageType::kDrain:
    case MessageType::kDrainAck:
      break;
  }
  Drop("unknown_type");
}

// ---- puts --------------------------------------------------------------------------------------

void LinkTable::Core::PutPage(LinkId id, std::span<const std::byte> local, PageId page,
                              size_t offset, Done done) {
  Link* link = Get(id);
  if (link == nullptr || !CarriesPages(link->state))
    return PostDone(std::move(done), absl::UnavailableError("link is down"));
  const PoolExport& pool = link->hello.pool;
  const bool inside = page.value >= 0 && uint32_t(page.value) < pool.pages &&
                      offset <= pool.page_bytes && local.size() <= pool.page_bytes - offset;
  if (pool.remote_key.empty() || !inside)
    return PostDone(std::move(done), absl::OutOfRangeError(absl::StrCat(
                                         "page ", page.value, " + ", offset, ": not inside the ",
                                         pool.pages, " pages of ", link->peer.name)));
  const uint64_t address = pool.base + uint64_t(page.value) * pool.page_stride + offset;
  transport_.Put(link->endpoint, local, address, link->pool_key, std::move(done));
}

void LinkTable::Core::Flush(LinkId id, Done done) {
  Link* link = Get(id);
  if (link == nullptr || !IsOpen(link->state))
    return PostDone(std::move(done), absl::UnavailableError("link is down"));
  transport_.Flush(link->endpoint, std::move(done));
}

// ---- ends --------------------------------------------------------------------------------------

void LinkTable::Core::Apply(Link& link, LinkEvent event, const absl::Status& reason) {
  const auto next = Next(link.state, event);
  BALEEN_CHECK_MSG(next.has_value(), Name(event));
  link.state = *next;
  if (link.state == LinkState::kUp && event == LinkEvent::kProbeOk) {
    spdlog::info("link to {} is up over {}, probe {:.2f} GB/s", link.peer.name, link.wire,
                 link.probe_gb_per_s);
    metrics_
        .Gauge("transfer_link", "1 while a link is up",
               {{"peer", link.peer.name}, {"wire", link.wire}})
        .Set(1);
    metrics_
        .Gauge("transfer_probe_gb_per_second", "Rate of the put at link-up",
               {{"peer", link.peer.name}})
        .Set(link.probe_gb_per_s);
  }
  if (link.state == LinkState::kSuspect)
    spdlog::warn("link to {}: nothing heard lately", link.peer.name);
  if (link.state == LinkState::kDown) return;
  for (size_t i = 0; i < observers_.size(); ++i) observers_[i](link.id, link.state, reason);
}

void LinkTable::Core::Fail(Link& link, const absl::Status& reason) {
  if (!IsOpen(link.state)) return;
  link.reason = reason;
  if (!stopped_) spdlog::warn("link to {} fenced: {}", link.peer.name, reason.ToString());
  fences_.Increment();
  if (!link.wire.empty())
    metrics_
        .Gauge("transfer_link", "1 while a link is up",
               {{"peer", link.peer.name}, {"wire", link.wire}})
        .Set(0);
  if (const auto open = open_.find(link.peer.incarnation.value);
      open != open_.end() && open->second == link.id)
    open_.erase(open);
  scratch_.Release(std::exchange(link.scratch, nullptr));
  if (!link.endpoint_closed)
    transport_.Close(link.endpoint, Weakly([id = link.id](Core& core) {
                       if (Link* l = core.Get(id)) l->endpoint_closed = true;
                     }));
  const auto waiting = std::exchange(link.waiting, {});
  Apply(link, LinkEvent::kFailed, reason);
  for (const auto& send : waiting) send();  // the link is down: each `done` hears so
}

void LinkTable::Core::Close(LinkId id, const absl::Status& reason) {
  Link* link = Get(id);
  if (link == nullptr || !IsOpen(link->state)) return;
  if (link->peer_token != 0)
    SendOwned(id, uint8_t(Bye::kType), Encode(Bye{.reason = std::string(reason.message())}));
  Fail(*link, reason);
}

void LinkTable::Core::OnEndpointFailed(EndpointId endpoint, const absl::Status& why) {
  for (auto& [id, link] : links_) {
    if (link->endpoint != endpoint || link->endpoint_closed) continue;
    return Fail(*link, absl::UnavailableError(
                           absl::StrCat("link to ", link->peer.name, ": ", why.message())));
  }
}

bool LinkTable::Core::Settled(LinkId id) const {
  const Link* link = Get(id);
  if (link == nullptr) return true;
  if (IsOpen(link->state)) return false;
  if (link->process_gone || !link->PeerCouldWrite()) return true;
  return link->endpoint_closed && link->fence == Transport::Fence::kOwnClose;
}

void LinkTable::Core::ProcessGone(Incarnation peer) {
  for (auto& [id, link] : links_) {
    if (link->peer.incarnation != peer) continue;
    link->process_gone = true;
    Fail(*link, absl::UnavailableError(absl::StrCat(link->peer.name, ": its process ended")));
  }
}

// ---- clocks ------------------------------------------------------------------------------------

bool LinkTable::Core::Tick() {
  if (stopped_) return false;
  const TimePoint now = transport_.clock().Now();
  // A gap means that we were stopped or starved, not the peers: what they sent meanwhile is still
  // in the queue, so their silence has not been observed.
  const Duration gap = now - last_tick_;
  const bool starved = gap > std::max<Duration>(options_.heartbeat, 10 * kTick);
  last_tick_ = now;
  for (LinkId id : Links()) {
    Link& link = *Get(id);
    if (starved && IsOpen(link.state)) link.heard += gap;
    if (!link.process_gone && link.process.Gone()) {
      link.process_gone = true;
      Fail(link, absl::UnavailableError(absl::StrCat(link.peer.name, ": its process ended")));
    }
    if (IsOpen(link.state)) {
      TickOpen(link, now);
    } else if (Settled(id) && link.endpoint_closed) {
      links_.erase(id.value);
    }
  }
  return true;
}

void LinkTable::Core::TickOpen(Link& link, TimePoint now) {
  const Duration silent = now - link.heard;
  if (silent > options_.lease)
    return Fail(link, absl::UnavailableError(absl::StrCat(
                          link.peer.name, " was silent for ",
                          std::chrono::duration_cast<std::chrono::milliseconds>(silent).count(),
                          " ms (", Name(link.state), ")")));
  if (!CarriesMessages(link.state)) return;
  if (link.state == LinkState::kUp && silent > options_.lease / 2) Apply(link, LinkEvent::kSilent);
  if (now - link.pinged < options_.heartbeat) return;
  link.pinged = now;
  SendOwned(link.id, uint8_t(Ping::kType), Encode(Ping{.sequence = ++link.pings}));
}

// ---- small things ------------------------------------------------------------------------------

Link* LinkTable::Core::Get(LinkId id) const {
  const auto it = links_.find(id.value);
  return it == links_.end() ? nullptr : it->second.get();
}

std::optional<LinkId> LinkTable::Core::Find(Incarnation peer) const {
  const auto it = open_.find(peer.value);
  return it == open_.end() ? std::nullopt : std::optional(it->second);
}

std::vector<LinkId> LinkTable::Core::Links() const {
  std::vector<LinkId> ids;
  for (const auto& [id, link] : links_) ids.push_back(LinkId{id});
  return ids;
}

std::optional<LinkInfo> LinkTable::Core::Info(LinkId id) const {
  const Link* link = Get(id);
  if (link == nullptr) return std::nullopt;
  LinkInfo info = {.peer_name = link->peer.name,
                   .peer = link->peer.incarnation,
                   .state = link->state,
                   .wire = link->wire,
                   .probe_gb_per_s = link->probe_gb_per_s};
  if (link->hello.pool.pages > 0) info.pool = link->hello.pool;
  return info;
}

void LinkTable::Core::Drop(const char* cause) {
  metrics_.Counter("transfer_dropped_messages_total", "Messages ignored", {{"cause", cause}})
      .Increment();
}

void LinkTable::Core::PostDone(Done done, absl::Status status) {
  if (!done) return;
  transport_.Post([done = std::move(done), status = std::move(status)] { done(status); });
}

// ---- the public face ---------------------------------------------------------------------------

LinkTable::LinkTable() = default;

absl::StatusOr<std::unique_ptr<LinkTable>> LinkTable::Create(Transport& transport,
                                                             const LinkOptions& options,
                                                             Metrics& metrics) {
  if (options.incarnation.value == 0) return absl::InvalidArgumentError("incarnation is 0");
  std::unique_ptr<LinkTable> table(new LinkTable);
  absl::Status status;
  RunOn(transport, [&] {
    table->core_ = std::make_shared<Core>(transport, options, metrics);
    status = table->core_->Start();
  });
  BALEEN_RETURN_IF_ERROR(status);
  return table;
}

LinkTable::~LinkTable() {
  if (core_ == nullptr) return;
  Transport& transport = core_->transport_;
  RunOn(transport, [&] {
    core_->Stop();
    core_.reset();
  });
}

Transport& LinkTable::transport() { return core_->transport_; }
const LinkOptions& LinkTable::options() const { return core_->options_; }
PeerAddress LinkTable::Self() const {
  return {.name = core_->options_.name,
          .transport_address = core_->transport_.LocalAddress(),
          .incarnation = core_->options_.incarnation};
}
absl::StatusOr<LinkId> LinkTable::Connect(const PeerAddress& peer) { return core_->Connect(peer); }
std::optional<LinkId> LinkTable::Find(Incarnation peer) const { return core_->Find(peer); }
std::optional<LinkInfo> LinkTable::Info(LinkId link) const { return core_->Info(link); }
std::vector<LinkId> LinkTable::Links() const { return core_->Links(); }
void LinkTable::Send(LinkId link, uint8_t type, std::span<const std::byte> header,
                     std::span<const std::span<const std::byte>> payload, Done done) {
  core_->Send(link, type, header, payload, std::move(done));
}
void LinkTable::SetHandler(uint8_t type, Handler handler) {
  core_->handlers_[type] = std::move(handler);
}
void LinkTable::AddObserver(Observer observer) { core_->observers_.push_back(std::move(observer)); }
void LinkTable::PutPage(LinkId link, std::span<const std::byte> local, PageId page, size_t offset,
                        Done done) {
  core_->PutPage(link, local, page, offset, std::move(done));
}
void LinkTable::Flush(LinkId link, Done done) { core_->Flush(link, std::move(done)); }
void LinkTable::Close(LinkId link, const absl::Status& reason) { core_->Close(link, reason); }
bool LinkTable::Settled(LinkId link) const { return core_->Settled(link); }
void LinkTable::ProcessGone(Incarnation peer) {
  core_->transport_.Post([weak = std::weak_ptr(core_), peer] {
    if (auto core = weak.lock()) core->ProcessGone(peer);
  });
}
void LinkTable::SendOwned(LinkId link, uint8_t type, Bytes payload) {
  core_->SendOwned(link, type, std::move(payload));
}

}  // namespace baleen::kv_transfer
