#include "testing/loopback_transport.h"

#include <atomic>
#include <cstring>
#include <deque>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kv_transfer/messages.h"
#include "kv_transfer/progress_thread.h"

namespace baleen::kv_transfer {

struct LoopbackHub::Request {
  Op op;
  Transport::Done done;
  Bytes bytes;   // of the put or the payload, copied: the sender may go while it is held
  Bytes header;  // kMessage
  uint64_t region_owner = 0, region = 0, address = 0;  // kPut
  Fate fate = Fate::kPass;
};

struct LoopbackHub::Agent {
  struct Endpoint {
    uint64_t peer = 0;
    bool broken = false;
    std::deque<Request> held;
    std::vector<Transport::Done> lost;                       // of dropped operations
    std::map<uint64_t, std::pair<uint64_t, uint64_t>> keys;  // -> owner, region
  };
  struct Region {
    std::byte* base;
    size_t bytes;
  };
  struct Timer {
    Duration period;
    TimePoint next;
    std::function<bool()> tick;
  };

  void Post(Transport::Task task) {
    if (thread != nullptr) return thread->Post(std::move(task));
    MutexLock lock(mu);
    tasks.push_back(std::move(task));
  }

  std::string name;
  uint64_t id = 0;
  Transport::Fence fence{};
  Transport::Receiver receiver;
  Transport::FailureObserver observer;
  // Guarded by the hub's mutex.
  std::map<uint64_t, Endpoint> endpoints;
  std::map<uint64_t, Region> regions;
  // Late puts of closed endpoints, still on their way.
  std::deque<Request> orphans;
  std::vector<Transport::Task> held_closes;

  Mutex mu;
  std::vector<Transport::Task> tasks ABSL_GUARDED_BY(mu);  // kManual
  std::vector<Timer> timers ABSL_GUARDED_BY(mu);           // kManual
  std::unique_ptr<ProgressThread> thread;                  // kThreads; last
};

class LoopbackTransport final : public Transport {
 public:
  LoopbackTransport(LoopbackHub& hub, const std::string& name, Fence fence) : hub_(hub) {
    agent_.name = name;
    agent_.fence = fence;
    if (hub.mode_ == LoopbackHub::Mode::kThreads)
      agent_.thread =
          std::make_unique<ProgressThread>("loopback", ProgressThread::Poller{}, Duration::zero());
    hub_.Add(agent_);
  }
  ~LoopbackTransport() override {
    hub_.Remove(agent_);
    agent_.thread.reset();
  }

  void Post(Task task) override { agent_.Post(std::move(task)); }
  void Every(Duration period, std::function<bool()> tick) override {
    if (agent_.thread != nullptr) return agent_.thread->Every(period, std::move(tick));
    MutexLock lock(agent_.mu);
    agent_.timers.push_back({period, clock().Now() + period, std::move(tick)});
  }
  bool OnOwnThread() const override {
    return agent_.thread == nullptr || agent_.thread->OnThread();
  }
  const Clock& clock() const override { return hub_.clock_; }
  std::string LocalAddress() const override { return absl::StrCat("loopback:", agent_.id); }

  absl::StatusOr<RegionId> RegisterRegion(MemoryKind kind, void* base, size_t bytes) override {
    if (kind != MemoryKind::kHost) return absl::UnimplementedError("loopback: host memory only");
    MutexLock lock(hub_.mu_);
    const RegionId id{hub_.next_id_++};
    agent_.regions[id.value] = {static_cast<std::byte*>(base), bytes};
    return id;
  }
  void DeregisterRegion(RegionId region) override {
    MutexLock lock(hub_.mu_);
    agent_.regions.erase(region.value);
  }
  absl::StatusOr<std::string> PackRemoteKey(RegionId region) override {
    return absl::StrCat(agent_.id, ":", region.value);
  }

  absl::StatusOr<EndpointId> Open(absl::string_view address) override {
    uint64_t peer = 0;
    if (!absl::ConsumePrefix(&address, "loopback:") || !absl::SimpleAtoi(address, &peer))
      return absl::InvalidArgumentError("loopback: not an address");
    MutexLock lock(hub_.mu_);
    const EndpointId id{hub_.next_id_++};
    agent_.endpoints[id.value].peer = peer;
    if (hub_.Find(peer) == nullptr)
      hub_.Fail(agent_, id, absl::UnavailableError("loopback: no such process"));
    return id;
  }

  void Bind(EndpointId) override {}  // the hub knows both ends
  void Close(EndpointId endpoint, Task closed_task) override {
    MutexLock lock(hub_.mu_);
    auto it = agent_.endpoints.find(endpoint.value);
    if (it == agent_.endpoints.end()) return agent_.Post(std::move(closed_task));
    LoopbackHub::Agent::Endpoint closed = std::move(it->second);
    agent_.endpoints.erase(it);
    for (LoopbackHub::Request& request : closed.held) {
      closed.lost.push_back(std::move(request.done));
      request.done = nullptr;
      if (request.op.kind == LoopbackHub::OpKind::kPut)
        agent_.orphans.push_back(std::move(request));
    }
    for (Done& done : closed.lost)
      if (done) agent_.Post([done = std::move(done)] { done(absl::CancelledError("closed")); });
    if (hub_.hold_closes_)
      agent_.held_closes.push_back(std::move(closed_task));
    else
      agent_.Post(std::move(closed_task));
  }

  absl::StatusOr<RemoteKeyId> ImportKey(EndpointId endpoint, absl::string_view packed) override {
    const size_t colon = packed.find(':');
    uint64_t owner = 0, region = 0;
    if (colon == packed.npos || !absl::SimpleAtoi(packed.substr(0, colon), &owner) ||
        !absl::SimpleAtoi(packed.substr(colon + 1), &region))
      return absl::InvalidArgumentError("loopback: not a key");
    MutexLock lock(hub_.mu_);
    auto it = agent_.endpoints.find(endpoint.value);
    if (it == agent_.endpoints.end()) return absl::UnavailableError("loopback: closed");
    const RemoteKeyId id{hub_.next_id_++};
    it->second.keys[id.value] = {owner, region};
    return id;
  }

  void AgreeOnDeviceWay(EndpointId, Done done) override {
    Post(
        [done = std::move(done)] { done(absl::UnimplementedError("loopback: host memory only")); });
  }
  std::string DeviceWayName(EndpointId) override { return ""; }
  void Put(EndpointId endpoint, std::span<const Piece> pieces, RemoteKeyId key,
           Done done) override {
    const Done piece_done = DoneAfter(pieces.size(), std::move(done));
    for (const Piece& piece : pieces) PutPiece(endpoint, piece, key, piece_done);
  }
  void PutPiece(EndpointId endpoint, const Piece& piece, RemoteKeyId key, Done done) {
    LoopbackHub::Request request;
    request.op.kind = LoopbackHub::OpKind::kPut;
    request.op.bytes = piece.local.size();
    request.bytes.assign(piece.local.begin(), piece.local.end());
    request.address = piece.remote_address;
    request.done = std::move(done);
    {
      MutexLock lock(hub_.mu_);
      auto it = agent_.endpoints.find(endpoint.value);
      if (it != agent_.endpoints.end() && it->second.keys.count(key.value) > 0)
        std::tie(request.region_owner, request.region) = it->second.keys[key.value];
    }
    hub_.Submit(agent_, endpoint, std::move(request));
  }
  void Flush(EndpointId endpoint, Done done) override {
    LoopbackHub::Request request;
    request.op.kind = LoopbackHub::OpKind::kFlush;
    request.done = std::move(done);
    hub_.Submit(agent_, endpoint, std::move(request));
  }
  void Send(EndpointId endpoint, std::span<const std::byte> header,
            std::span<const std::span<const std::byte>> payload, Done done) override {
    LoopbackHub::Request request;
    request.op.kind = LoopbackHub::OpKind::kMessage;
    if (const auto frame = DecodeFrame(header); frame.ok()) request.op.message_type = frame->type;
    request.header.assign(header.begin(), header.end());
    for (const auto& piece : payload)
      request.bytes.insert(request.bytes.end(), piece.begin(), piece.end());
    request.op.bytes = request.bytes.size();
    request.done = std::move(done);
    hub_.Submit(agent_, endpoint, std::move(request));
  }

  void SetReceiver(Receiver receiver) override { agent_.receiver = std::move(receiver); }
  void SetFailureObserver(FailureObserver observer) override {
    agent_.observer = std::move(observer);
  }
  std::string WireName(EndpointId) override { return "loopback"; }
  Fence FenceOf(EndpointId) override { return agent_.fence; }

 private:
  LoopbackHub& hub_;
  LoopbackHub::Agent agent_;
};

LoopbackHub::LoopbackHub(Mode mode, const Clock& clock)
    : mode_(mode), clock_(clock), buffers_(BufferPool::Create(64 << 20)) {}

LoopbackHub::~LoopbackHub() = default;

std::unique_ptr<Transport> LoopbackHub::Create(const std::string& name, Transport::Fence fence) {
  return std::make_unique<LoopbackTransport>(*this, name, fence);
}

void LoopbackHub::SetFaults(Faults faults) {
  MutexLock lock(mu_);
  faults_ = std::move(faults);
}

void LoopbackHub::DropAfter(int operations) {
  auto left = std::make_shared<std::atomic<int>>(operations);
  SetFaults([left](const Op&) { return left->fetch_sub(1) > 0 ? Fate::kPass : Fate::kDrop; });
}

void LoopbackHub::Submit(Agent& from, EndpointId endpoint, Request request) {
  Faults faults;
  {
    MutexLock lock(mu_);
    auto it = from.endpoints.find(endpoint.value);
    request.op.from = from.name;
    if (it != from.endpoints.end())
      if (const Agent* to = Find(it->second.peer)) request.op.to = to->name;
    faults = faults_;
  }
  if (faults) request.fate = faults(request.op);
  MutexLock lock(mu_);
  auto it = from.endpoints.find(endpoint.value);
  if (it == from.endpoints.end() || it->second.broken) {
    if (request.done)
      from.Post([done = std::move(request.done)] {
        done(absl::UnavailableError("loopback: endpoint is closed"));
      });
    return;
  }
  if (request.fate == Fate::kHold || !it->second.held.empty()) {
    it->second.held.push_back(std::move(request));
    return;
  }
  Execute(from, endpoint, request);
}

void LoopbackHub::Execute(Agent& from, EndpointId endpoint, Request& request) {
  Agent::Endpoint& ep = from.endpoints[endpoint.value];
  Agent* to = Find(ep.peer);
  if (request.fate == Fate::kDrop || to == nullptr) {
    ep.lost.push_back(std::move(request.done));
    return;
  }
  absl::Status status;
  if (request.fate == Fate::kFail) {
    status = absl::UnavailableError("loopback: injected failure");
  } else if (request.op.kind == OpKind::kPut) {
    WritePut(from, *to, request);
  } else if (request.op.kind == OpKind::kMessage) {
    Deliver(*to, request);
    if (request.fate == Fate::kDuplicate) Deliver(*to, request);
  }
  if (request.done)
    from.Post([done = std::move(request.done), status = std::move(status)] { done(status); });
}

void LoopbackHub::WritePut(Agent& from, Agent& to, const Request& request) {
  bool open = false;
  for (const auto& [id, ep] : to.endpoints) open |= ep.peer == from.id;
  if (!open && to.fence == Transport::Fence::kOwnClose) return;
  const auto region = to.regions.find(request.region);
  if (request.region_owner != to.id || region == to.regions.end()) return;
  auto* const begin = region->second.base;
  auto* const at = begin + (request.address - reinterpret_cast<uint64_t>(begin));
  if (at < begin || at + request.bytes.size() > begin + region->second.bytes) return;
  if (!request.bytes.empty()) std::memcpy(at, request.bytes.data(), request.bytes.size());
}

void LoopbackHub::Deliver(Agent& to, const Request& request) {
  auto payload = std::make_shared<Buffer>(buffers_->Get(request.bytes.size()));
  if (payload->size() > 0) std::memcpy(payload->data(), request.bytes.data(), request.bytes.size());
  to.Post([&to, header = request.header, payload] {
    if (to.receiver) to.receiver(header, std::move(*payload));
  });
}

void LoopbackHub::HoldCloses() {
  MutexLock lock(mu_);
  hold_closes_ = true;
}

void LoopbackHub::ReleaseHeld() {
  MutexLock lock(mu_);
  hold_closes_ = false;
  for (auto& [agent_id, agent] : agents_) {
    for (auto& [id, ep] : agent->endpoints) {
      std::deque<Request> held = std::exchange(ep.held, {});
      for (Request& request : held) {
        if (request.fate == Fate::kHold) request.fate = Fate::kPass;
        Execute(*agent, EndpointId{id}, request);
      }
    }
    for (Request& late : std::exchange(agent->orphans, {}))
      if (Agent* to = Find(late.region_owner)) WritePut(*agent, *to, late);
    for (Transport::Task& closed : std::exchange(agent->held_closes, {}))
      agent->Post(std::move(closed));
  }
}

void LoopbackHub::Break(const std::string& a, const std::string& b) {
  MutexLock lock(mu_);
  for (auto& [agent_id, agent] : agents_) {
    for (auto& [id, ep] : agent->endpoints) {
      const Agent* peer = Find(ep.peer);
      if (peer == nullptr) continue;
      if ((agent->name == a && peer->name == b) || (agent->name == b && peer->name == a))
        Fail(*agent, EndpointId{id}, absl::UnavailableError("loopback: wire broken"));
    }
  }
}

void LoopbackHub::Fail(Agent& agent, EndpointId endpoint, const absl::Status& why) {
  Agent::Endpoint& ep = agent.endpoints[endpoint.value];
  if (std::exchange(ep.broken, true)) return;
  agent.Post([&agent, endpoint, why] {
    if (agent.observer) agent.observer(endpoint, why);
  });
}

LoopbackHub::Agent* LoopbackHub::Find(uint64_t agent) {
  const auto it = agents_.find(agent);
  return it == agents_.end() ? nullptr : it->second;
}

void LoopbackHub::Add(Agent& agent) {
  MutexLock lock(mu_);
  agent.id = next_id_++;
  agents_[agent.id] = &agent;
}

void LoopbackHub::Remove(Agent& agent) {
  MutexLock lock(mu_);
  agents_.erase(agent.id);
  for (auto& [other_id, other] : agents_)
    for (auto& [id, ep] : other->endpoints)
      if (ep.peer == agent.id)
        Fail(*other, EndpointId{id}, absl::UnavailableError("loopback: peer is gone"));
}

size_t LoopbackHub::Run() {
  size_t ran = 0;
  for (bool worked = true; worked;) {
    worked = false;
    std::vector<Agent*> agents;
    {
      MutexLock lock(mu_);
      for (auto& [id, agent] : agents_) agents.push_back(agent);
    }
    for (Agent* agent : agents) {
      std::vector<Transport::Task> tasks;
      std::vector<Agent::Timer> due;
      {
        MutexLock lock(agent->mu);
        tasks.swap(agent->tasks);
        const TimePoint now = clock_.Now();
        for (size_t i = 0; i < agent->timers.size();) {
          if (agent->timers[i].next > now) {
            ++i;
            continue;
          }
          due.push_back(std::move(agent->timers[i]));
          due.back().next = now + due.back().period;
          agent->timers.erase(agent->timers.begin() + ptrdiff_t(i));
        }
      }
      for (Transport::Task& task : tasks) task();
      for (Agent::Timer& timer : due) {
        if (!timer.tick()) continue;
        MutexLock lock(agent->mu);
        agent->timers.push_back(std::move(timer));
      }
      ran += tasks.size() + due.size();
      worked |= !tasks.empty() || !due.empty();
    }
  }
  return ran;
}

}  // namespace baleen::kv_transfer
