#include "kv_transfer/link_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "kv_transfer/link_table_core.h"
#include "spdlog/spdlog.h"

namespace baleen::kv_transfer {
namespace {

// A gap between ticks that says that this process was stopped or starved.
constexpr Duration kStarved = std::chrono::milliseconds(200);

}  // namespace

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

void LinkTable::Core::PutPages(LinkId id, std::span<const PagePut> puts, size_t offset, Done done) {
  Link* link = Get(id);
  if (link == nullptr || !CarriesPages(link->state))
    return PostDone(std::move(done), absl::UnavailableError("link is down"));
  const PoolExport& pool = link->hello.pool;
  std::vector<Transport::Piece> pieces;
  pieces.reserve(puts.size());
  for (const PagePut& put : puts) {
    const bool inside = put.page.value >= 0 && uint32_t(put.page.value) < pool.pages &&
                        offset <= pool.page_bytes && put.local.size() <= pool.page_bytes - offset;
    if (pool.remote_key.empty() || !inside)
      return PostDone(std::move(done),
                      absl::OutOfRangeError(absl::StrCat("page ", put.page.value, " + ", offset,
                                                         ": not inside the ", pool.pages,
                                                         " pages of ", link->peer.name)));
    pieces.push_back(
        {.local = put.local,
         .remote_address = pool.base + uint64_t(put.page.value) * pool.page_stride + offset});
  }
  transport_.Put(link->endpoint, pieces, link->pool_key, std::move(done));
}

absl::StatusOr<RemoteKeyId> LinkTable::Core::ImportKey(LinkId id, absl::string_view packed) {
  Link* link = Get(id);
  if (link == nullptr || !IsOpen(link->state)) return absl::UnavailableError("link is down");
  return transport_.ImportKey(link->endpoint, packed);
}

void LinkTable::Core::Put(LinkId id, std::span<const Transport::Piece> pieces, RemoteKeyId key,
                          Done done) {
  Link* link = Get(id);
  if (link == nullptr || !CarriesPages(link->state))
    return PostDone(std::move(done), absl::UnavailableError("link is down"));
  transport_.Put(link->endpoint, pieces, key, std::move(done));
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
    spdlog::info("link to {} is up over {}, pages by {}, probe {:.2f} GB/s", link.peer.name,
                 link.wire, link.pages, link.probe_gb_per_s);
    LinkGauge(link).Set(1);
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
  if (!link.pages.empty()) LinkGauge(link).Set(0);
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

bool LinkTable::Core::Closed(LinkId id) const {
  const Link* link = Get(id);
  return link == nullptr || link->endpoint_closed;
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
  const bool starved = gap > std::max<Duration>(options_.heartbeat, kStarved);
  last_tick_ = now;
  for (LinkId id : Links()) {
    Link& link = *Get(id);
    if (starved && IsOpen(link.state)) link.heard += gap, link.probing += gap;
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
  if (link.state == LinkState::kProbing && now - link.probing > options_.lease)
    return Fail(link, absl::DeadlineExceededError(
                          absl::StrCat(link.peer.name, " did not answer the probe in time")));
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
                   .pages = link->pages,
                   .probe_gb_per_s = link->probe_gb_per_s};
  if (link->hello.pool.pages > 0) info.pool = link->hello.pool;
  return info;
}

prometheus::Gauge& LinkTable::Core::LinkGauge(const Link& link) {
  return metrics_.Gauge("transfer_link", "1 while a link is up",
                        {{"peer", link.peer.name}, {"wire", link.wire}, {"pages", link.pages}});
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
void LinkTable::PutPages(LinkId link, std::span<const PagePut> puts, size_t offset, Done done) {
  core_->PutPages(link, puts, offset, std::move(done));
}
absl::StatusOr<RemoteKeyId> LinkTable::ImportKey(LinkId link, absl::string_view packed) {
  return core_->ImportKey(link, packed);
}
void LinkTable::Put(LinkId link, std::span<const Transport::Piece> pieces, RemoteKeyId key,
                    Done done) {
  core_->Put(link, pieces, key, std::move(done));
}
void LinkTable::Flush(LinkId link, Done done) { core_->Flush(link, std::move(done)); }
void LinkTable::Close(LinkId link, const absl::Status& reason) { core_->Close(link, reason); }
void LinkTable::Drop(const char* cause) { core_->Drop(cause); }
bool LinkTable::Settled(LinkId link) const { return core_->Settled(link); }
bool LinkTable::Closed(LinkId link) const { return core_->Closed(link); }
void LinkTable::ProcessGone(Incarnation peer) {
  core_->transport_.Post([weak = std::weak_ptr(core_), peer] {
    if (auto core = weak.lock()) core->ProcessGone(peer);
  });
}
void LinkTable::SendOwned(LinkId link, uint8_t type, Bytes payload) {
  core_->SendOwned(link, type, std::move(payload));
}

}  // namespace baleen::kv_transfer
