#include "kv_transfer/link_table_core.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"
#include "spdlog/spdlog.h"

namespace baleen::kv_transfer {
namespace {

constexpr Duration kTick = std::chrono::milliseconds(20);

bool IsWayOfPages(const std::string& required) {
  return required == "cuda_ipc" || required == "ucx_cuda";
}

// Does a wire like "posix+cma" satisfy require_transport?
bool Satisfies(const std::string& wire, const std::string& required) {
  if (required.empty()) return true;
  const std::vector<std::string> parts = absl::StrSplit(wire, '+');
  const auto one_of = [](const std::string& part, std::initializer_list<const char*> names) {
    return std::find(names.begin(), names.end(), part) != names.end();
  };
  return std::all_of(parts.begin(), parts.end(), [&](const std::string& part) {
    if (required == "shm") return one_of(part, {"posix", "sysv", "cma", "xpmem", "knem", "self"});
    return part == required || absl::StartsWith(part, required + "_");
  });
}

}  // namespace

// ---- life of the table -------------------------------------------------------------------------

absl::Status LinkTable::Core::Start() {
  const PagePoolView& pool = options_.pool;
  pool_ = {.base = reinterpret_cast<uint64_t>(pool.base),
           .page_stride = pool.page_stride,
           .page_bytes = pool.page_bytes,
           .pages = uint32_t(pool.pages),
           .page_offset = pool.page_offset};
  if (options_.peers_write_pool || pool.memory == MemoryKind::kDevice) {
    BALEEN_ASSIGN_OR_RETURN(
        pool_region_,
        transport_.RegisterRegion(pool.memory, pool.base, pool.page_stride * size_t(pool.pages)));
  }
  if (options_.peers_write_pool) {
    BALEEN_ASSIGN_OR_RETURN(pool_.remote_key, transport_.PackRemoteKey(*pool_region_));
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

Link& LinkTable::Core::Open(const PeerAddress& peer, uint64_t answers) {
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
  SendHello(link, answers);
  return link;
}

absl::StatusOr<LinkId> LinkTable::Core::Connect(const PeerAddress& peer) {
  if (peer.incarnation == options_.incarnation)
    return absl::InvalidArgumentError(absl::StrCat("link from ", options_.name, " to itself"));
  if (peer.incarnation.value == 0)
    return absl::InvalidArgumentError(absl::StrCat(peer.name, ": no incarnation"));
  if (const auto open = open_.find(peer.incarnation.value); open != open_.end())
    return open->second;
  return Open(peer, /*answers=*/0).id;
}

void LinkTable::Core::SendHello(Link& link, uint64_t answers) {
  Hello hello = {.from = options_.incarnation,
                 .to = link.peer.incarnation,
                 .token = link.id.value,
                 .answers = answers,
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
  const Link* asked = Get(LinkId{hello.answers});
  if (hello.answers != 0 && (asked == nullptr || !IsOpen(asked->state))) return Drop("stale_link");
  Link* link = nullptr;
  if (const auto open = open_.find(hello.from.value); open != open_.end()) {
    link = Get(open->second);
    if (link->peer_token == hello.token) return Drop("repeated");
    // The peer gave a life up and we did not hear of it. A link that it opened to answer ours takes
    // the place of the peer's earlier one; were ours replaced too, the peer would answer that in
    // turn, and so on.
    const bool answer = hello.answers == link->id.value && link->state == LinkState::kConnecting;
    if (link->peer_token != 0 && !answer) {
      Fail(*link, absl::UnavailableError(absl::StrCat(hello.name, " started a new link")));
      link = nullptr;
    }
  }
  if (link == nullptr) {
    if (stopped_) return Drop("stopped");
    link = &Open({.name = hello.name,
                  .transport_address = hello.transport_address,
                  .incarnation = hello.from},
                 hello.token);
  }
  if (link->endpoint_closed) return;
  Accept(*link, hello);
}

void LinkTable::Core::Accept(Link& link, const Hello& hello) {
  transport_.Bind(link.endpoint);
  link.peer_token = hello.token;
  link.hello = hello;
  link.heard = transport_.clock().Now();
  if (!hello.name.empty()) link.peer.name = hello.name;  // its own word: unique in the cluster
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
  link.probing = transport_.clock().Now();
  Apply(link, LinkEvent::kAccepted);
  for (auto& send : std::exchange(link.waiting, {})) send();
  if (Link* l = Get(id); l != nullptr && l->state == LinkState::kProbing) StartProbe(*l);
}

absl::Status LinkTable::Core::CheckWire(Link& link) {
  const std::string& required = options_.require_transport;
  link.wire = transport_.WireName(link.endpoint);
  link.pages = options_.pool.memory == MemoryKind::kDevice ? transport_.DeviceWayName(link.endpoint)
                                                           : "host";
  // The way of pages is not agreed on before the probe.
  const bool satisfied = IsWayOfPages(required) ? link.pages.empty() || link.pages == required
                                                : Satisfies(link.wire, required);
  if (satisfied) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("require_transport: ", required, ", but the link between ", options_.name,
                   " and ", link.peer.name, " runs over ", link.wire, ", pages by ", link.pages));
}

// ---- probe -------------------------------------------------------------------------------------

// Can the peer's device reach ours? Better known now than from the first request.
void LinkTable::Core::StartProbe(Link& link) {
  if (options_.pool.memory == MemoryKind::kHost) return ProbePut(link);
  transport_.AgreeOnDeviceWay(link.endpoint,
                              Weakly([id = link.id](Core& core, const absl::Status& status) {
                                Link* l = core.Get(id);
                                if (l == nullptr || l->state != LinkState::kProbing) return;
                                status.ok() ? core.ProbePut(*l) : core.Close(id, status);
                              }));
}

void LinkTable::Core::ProbePut(Link& link) {
  const size_t bytes = std::min<size_t>(options_.probe_bytes, link.hello.probe_bytes) & ~size_t{7};
  const auto key = bytes > 0 ? transport_.ImportKey(link.endpoint, link.hello.probe_key)
                             : absl::StatusOr<RemoteKeyId>(RemoteKeyId{});
  if (!key.ok()) return Fail(link, key.status());
  if (bytes == 0) return Probed(link);
  auto content = std::make_shared<Bytes>(bytes);
  ProbeScratch::Fill(*content, link.id.value);
  const TimePoint start = transport_.clock().Now();
  const Transport::Piece piece = {*content, link.hello.probe_address};
  transport_.Put(link.endpoint, {&piece, 1}, *key, [content](const absl::Status&) {});
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
  const double seconds = Seconds(transport_.clock().Now() - start);
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
  Probed(link);
}

void LinkTable::Core::Probed(Link& link) {
  if (const absl::Status wire = CheckWire(link); !wire.ok()) return Close(link.id, wire);
  Apply(link, LinkEvent::kProbeOk);
}

}  // namespace baleen::kv_transfer
