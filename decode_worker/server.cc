#include "decode_worker/server.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <future>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "common/ready_file.h"
#include "common/status_macros.h"
#include "decode_worker/decode_loop.h"
#include "decode_worker/decode_service.h"
#include "decode_worker/exchange_choice.h"
#include "decode_worker/host_staged_exchange.h"
#include "decode_worker/peer_exchange.h"
#include "decode_worker/rank_links.h"
#include "decode_worker/transport_exchange.h"
#include "grpcpp/impl/service_type.h"
#include "grpcpp/server.h"
#include "kv_transfer/kv_receiver.h"
#include "kv_transfer/ucx/ucx_transport.h"
#include "model/config.h"
#include "proto/config.pb.h"
#include "worker/directory_client.h"
#include "worker/group.h"
#include "worker/grpc_server.h"
#include "worker/model_host.h"
#include "worker/process_config.h"
#include "worker/ticker.h"

namespace baleen::decode_worker {
namespace {

using std::chrono::milliseconds;

int Or(bool present, int value, int otherwise) { return present ? value : otherwise; }

// How long a formed group may take to connect its ranks.
constexpr auto kConnectTimeout = std::chrono::seconds(30);
// How long streams that have ended may take to reach the router when the process ends.
constexpr auto kLastWrites = std::chrono::seconds(2);

// Copied from host memory before a step: some GB, while the siblings wait.
constexpr int kMirrorPagesPerStep = 2048;
// How often the watchdog looks.
constexpr auto kWatch = milliseconds(200);

absl::Status Check(const v1::DecodeConfig& config) {
  if (config.has_max_sequences() && config.max_sequences() < 1)
    return absl::InvalidArgumentError("max_sequences: below 1");
  return CheckExchange(config.expert_exchange(), config.worker().device(),
                       config.worker().peer_memory());
}

}  // namespace

// Declared in the order of dependence; destroyed in reverse.
struct Server::Parts {
  Parts(const v1::DecodeConfig& config, ShutdownSignal& shutdown)
      : config(config), shutdown(shutdown) {}
  ~Parts();

  absl::Status Build();
  absl::Status BuildTransfer();
  absl::Status BuildEngine();
  absl::StatusOr<model::ExpertExchange*> BuildExchange();
  kernels::ExpertWindowOptions WindowOptions(const worker::ModelHost& h) const;
  size_t ExchangeBytes(worker::ModelHost& h) const;
  absl::Status Exchanged() const;
  Fingerprint GroupFingerprint() const;
  void BuildTable();
  absl::Status Serve();
  worker::GroupOptions GroupOptionsOf(int port) const;
  worker::GroupCallbacks GroupCallbacksOf();
  worker::Load LoadNow();

  void WatchWires();
  void GiveUpForming();
  void RunSteps();
  absl::Status ConnectRanks();
  void Register(const std::vector<worker::MemberInfo>& members);
  void SetDraining(bool on);
  void Watch();

  bool leads() const { return config.worker().index() == 0; }
  int ranks() const { return config.worker().size(); }
  int max_sequences() const { return Or(config.has_max_sequences(), config.max_sequences(), 64); }
  engine::DecodeLimits Limits(const worker::ModelHost& h) const {
    return {.max_sequences = max_sequences(),
            .drafts = h.options().drafts,
            .max_context = h.options().max_context,
            .max_head_rows = max_sequences() * (1 + h.options().drafts),
            .index_topk = h.config().has_indexer ? h.config().index_topk : 0,
            .vocabulary = h.vocabulary()};
  }
  Duration lease() const { return milliseconds(config.worker().lease_ms()); }
  Duration StepTimeout() const { return milliseconds(config.worker().step_timeout_ms()); }
  std::string Name() const {
    return absl::StrCat(config.worker().group(), "/", config.worker().index());
  }
  std::string HostName() const {
    return config.worker().host().empty() ? "127.0.0.1" : config.worker().host();
  }

  v1::DecodeConfig config;  // completed by Build
  ShutdownSignal& shutdown;
  const Incarnation incarnation{RandomId()};
  Metrics metrics;
  DecodeMetrics decode_metrics{metrics};
  std::unique_ptr<MetricsServer> metrics_server;
  // These three outlive the transport, whose last callbacks and sends use them; the pool (in host)
  // does because peers write it.
  std::unique_ptr<RankMesh> mesh;
  std::unique_ptr<TransportExchange> exchange;
  std::unique_ptr<worker::ModelHost> host;
  std::unique_ptr<HostStagedExchange> staged_exchange;  // device memory: before host goes
  std::unique_ptr<PeerExchange> peer_exchange;          // so is this
  ExchangeKind exchange_kind = ExchangeKind::kHost;     // once BuildExchange has chosen
  std::unique_ptr<RequestTable> table;
  Mutex wires_mu;
  std::set<std::string> wires ABSL_GUARDED_BY(wires_mu);  // what the links really are
  std::unique_ptr<kv_transfer::Transport> transport;
  std::unique_ptr<kv_transfer::LinkTable> links;
  std::unique_ptr<RankLinks> rank_links;
  std::unique_ptr<kv_transfer::KvReceiver> receiver;
  std::unique_ptr<engine::DecodeStep> step;
  std::unique_ptr<DecodeLoop> loop;

  // The group as it was formed; empty when this process ends before.
  std::promise<std::vector<worker::MemberInfo>> formed;
  std::atomic<bool> formed_set = false;
  std::atomic<bool> finished = false;  // all ranks agreed to end, or this one leaves anyway
  std::atomic<bool> exiting = false;   // SIGTERM: a drain cannot be taken back
  std::promise<void> steps_over;
  const std::shared_future<void> steps_end = steps_over.get_future().share();

  std::unique_ptr<worker::GroupLeader> group_leader;
  std::unique_ptr<grpc::Service> service;
  std::unique_ptr<grpc::Server> grpc_server;
  int grpc_port = 0;
  std::unique_ptr<worker::GroupMembership> membership;  // ranks other than the first
  Mutex directory_mu;
  std::unique_ptr<worker::DirectoryClient> directory ABSL_GUARDED_BY(directory_mu);
  std::thread step_thread;
  std::unique_ptr<worker::Ticker> watchdog;
};

Server::Parts::~Parts() {
  finished = true;
  if (loop) loop->Stop();
  if (rank_links) rank_links->Finish();
  GiveUpForming();
  watchdog.reset();
  if (step_thread.joinable()) {
    if (steps_end.wait_for(StepTimeout()) != std::future_status::ready) {
      spdlog::critical("the step thread hangs, the process ends without it: {}",
                       shutdown.status().ToString());
      if (grpc_server) grpc_server->Shutdown(std::chrono::system_clock::now() + kLastWrites);
      std::_Exit(1);
    }
    step_thread.join();
  }
  std::unique_ptr<worker::DirectoryClient> last_words;
  {
    MutexLock lock(directory_mu);
    last_words = std::move(directory);
  }
  last_words.reset();
  membership.reset();
  // All streams have ended; their last bytes may still be on the way.
  if (grpc_server) grpc_server->Shutdown(std::chrono::system_clock::now() + kLastWrites);
}

void Server::Parts::GiveUpForming() {
  if (!formed_set.exchange(true)) formed.set_value({});
}

absl::Status Server::Parts::Build() {
  BALEEN_RETURN_IF_ERROR(worker::Complete(*config.mutable_worker()));
  BALEEN_RETURN_IF_ERROR(Check(config));
  BALEEN_ASSIGN_OR_RETURN(worker::ModelOptions options, worker::ModelOptionsFrom(config.worker()));
  const int rows = max_sequences() * (1 + options.drafts);
  BALEEN_ASSIGN_OR_RETURN(
      host, worker::ModelHost::Create(
                options, worker::ModelHost::Split::kExpertRank, config.worker().index(), ranks(),
                {.max_rows = rows,
                 .max_sequences = max_sequences(),
                 .max_head_rows = rows,
                 .step_bytes = [this](worker::ModelHost& h) {
                   return engine::DecodeStep::PlannedBytes(Limits(h)) + ExchangeBytes(h);
                 }}));
  BALEEN_ASSIGN_OR_RETURN(
      metrics_server, MetricsServer::Create(metrics, "0.0.0.0", config.worker().metrics_port()));
  BALEEN_RETURN_IF_ERROR(BuildTransfer());
  BALEEN_RETURN_IF_ERROR(BuildEngine());
  BuildTable();
  BALEEN_RETURN_IF_ERROR(Serve());
  step_thread = std::thread([this] { RunSteps(); });
  watchdog = std::make_unique<worker::Ticker>(kWatch, [this] { Watch(); });
  return absl::OkStatus();
}

absl::Status Server::Parts::BuildTransfer() {
  const v1::WorkerConfig& w = config.worker();
  BALEEN_ASSIGN_OR_RETURN(
      transport, kv_transfer::CreateUcxTransport({.name = Name(),
                                                  .transports = host->TransportsFor(w.transport()),
                                                  .peer_memory = host->peer_memory(),
                                                  .device_ways = host->device_ways()}));
  BALEEN_ASSIGN_OR_RETURN(
      links, kv_transfer::LinkTable::Create(*transport,
                                            {.name = Name(),
                                             .incarnation = incarnation,
                                             .fingerprint = host->fingerprint(),
                                             .pool = host->pool_view(),
                                             .peers_write_pool = true,
                                             .require_transport = w.require_transport(),
                                             .lease = lease()},
                                            metrics));
  rank_links = RankLinks::Create(*links, metrics);
  transport->Post([this] { WatchWires(); });
  mesh = std::make_unique<RankMesh>(RankMesh::Options{.rank = w.index(),
                                                      .size = ranks(),
                                                      .deadline = lease(),
                                                      .broken =
                                                          [this](const absl::Status& why) {
                                                            if (peer_exchange)
                                                              peer_exchange->Abort();
                                                            if (!finished) shutdown.Request(why);
                                                          }},
                                    [this](std::span<const RankMesh::Envelope> envelopes,
                                           int parity) { rank_links->Post(envelopes, parity); });
  return absl::OkStatus();
}

void Server::Parts::WatchWires() {
  links->AddObserver([this](kv_transfer::LinkId link, kv_transfer::LinkState state,
                            const absl::Status&) {
    if (state != kv_transfer::LinkState::kUp) return;
    const auto info = links->Info(link);
    MutexLock lock(wires_mu);
    if (!info || info->wire.empty()) return;
    wires.insert(info->pages == "host" ? info->wire : absl::StrCat(info->wire, "+", info->pages));
  });
}

absl::Status Server::Parts::BuildEngine() {
  BALEEN_ASSIGN_OR_RETURN(model::ExpertExchange * used, BuildExchange());
  BALEEN_RETURN_IF_ERROR(host->BuildForward(used));
  step = std::make_unique<engine::DecodeStep>(host->forward(), Limits(*host));
  return absl::OkStatus();
}

kernels::ExpertWindowOptions Server::Parts::WindowOptions(const worker::ModelHost& h) const {
  return {.wire = exchange_kind == ExchangeKind::kNccl ? kernels::WindowWire::kNccl
                                                       : kernels::WindowWire::kPeerMemory,
          .rank = config.worker().index(),
          .ranks = ranks(),
          .experts = h.config().n_routed_experts,
          .topk = h.config().num_experts_per_tok,
          .dim = h.config().hidden_size,
          .max_rows = max_sequences() * (1 + h.options().drafts),
          .activations = ActivationDType(h.options().numerics),
          .fp8 = h.options().numerics == Numerics::kFp8 && h.config().fp8_experts,
          .deadline = lease(),
          .connect_deadline = kConnectTimeout};
}

// Of a window, should the choice be one.
size_t Server::Parts::ExchangeBytes(worker::ModelHost& h) const {
  const auto most = ChooseExchange(config.expert_exchange(), h.options().MapsPeers());
  const bool window = ranks() > 1 && most.ok() && *most != ExchangeKind::kHost;
  return window ? h.backend().ExpertWindowBytes(WindowOptions(h)) : 0;
}

// nullptr: all experts are here.
absl::StatusOr<model::ExpertExchange*> Server::Parts::BuildExchange() {
  if (ranks() == 1) return nullptr;
  BALEEN_ASSIGN_OR_RETURN(
      exchange_kind, ChooseExchange(config.expert_exchange(),
                                    host->peer_memory() != nullptr && host->options().MapsPeers()));
  spdlog::info("experts' rows go by {}", decode_worker::Name(exchange_kind));
  const kernels::ExpertWindowOptions o = WindowOptions(*host);
  if (exchange_kind != ExchangeKind::kHost) {
    BALEEN_ASSIGN_OR_RETURN(auto window, host->backend().MakeExpertWindow(o));
    peer_exchange = std::make_unique<PeerExchange>(std::move(window));
    return peer_exchange.get();
  }
  BALEEN_ASSIGN_OR_RETURN(exchange,
                          TransportExchange::Create(*mesh, {.experts = o.experts,
                                                            .dim = o.dim,
                                                            .topk = o.topk,
                                                            .max_rows = o.max_rows,
                                                            .activations = o.activations}));
  if (host->backend().host_memory()) return exchange.get();
  BALEEN_ASSIGN_OR_RETURN(staged_exchange, HostStagedExchange::Create(host->backend(), *exchange,
                                                                      {.max_rows = o.max_rows,
                                                                       .ranks = o.ranks,
                                                                       .topk = o.topk,
                                                                       .dim = o.dim,
                                                                       .activations = o.activations,
                                                                       .fp8 = o.fp8}));
  return staged_exchange.get();
}

void Server::Parts::BuildTable() {
  kv_transfer::KvReceiverOptions options;
  if (config.has_grant_ttl_ms()) options.grant_ttl = milliseconds(config.grant_ttl_ms());
  if (config.has_transfer_timeout_ms())
    options.transfer_timeout = milliseconds(config.transfer_timeout_ms());
  if (config.has_drain_ack_timeout_ms())
    options.drain_ack_timeout = milliseconds(config.drain_ack_timeout_ms());
  receiver = kv_transfer::KvReceiver::Create(
      *links, options,
      {.ready = [this](AttemptId id,
                       kv_transfer::HandoffRecord r) { table->Ready(id, std::move(r)); },
       .failed = [this](AttemptId id, const absl::Status& why) { table->Failed(id, why); },
       .settled = [this](AttemptId id) { table->Settled(id); }},
      metrics);
  uint32_t components = kv_transfer::kComponentLatent;
  if (host->layout().index_dim > 0) components |= kv_transfer::kComponentIndex;
  table = std::make_unique<RequestTable>(
      RequestTableOptions{
          .pages = host->pages(),
          .max_running = max_sequences(),
          .max_waiting = Or(config.has_max_waiting(), config.max_waiting(), 4096),
          .join_pages = host->wire_pool().mirrored() ? kMirrorPagesPerStep : INT_MAX,
          .quarantine_percent = Or(config.has_quarantine_percent(), config.quarantine_percent(), 5),
          .limits = Limits(*host),
          .stage_components = components,
          .last_stage_components = host->shard().mtp ? kv_transfer::kComponentDraft : 0u},
      KvLender{
          .grant =
              [this](kv_transfer::KvReceiver::GrantRequest r) { receiver->Grant(std::move(r)); },
          .release = [this](AttemptId id) { receiver->Release(id); },
          .cancel = [this](AttemptId id, const absl::Status& why) { receiver->Cancel(id, why); }},
      [this] { mesh->Wake(); }, decode_metrics);
  loop = std::make_unique<DecodeLoop>(
      *mesh, *table, *step, decode_metrics,
      DecodeLoop::Callbacks{
          .from_wire = [this](std::span<const PageId> pages) { host->wire_pool().FromWire(pages); },
          .exchanged = [this] { return Exchanged(); },
          .agreed =
              [this] {
                finished = true;
                rank_links->Finish();
              }},
      config.has_overlap() ? config.overlap() : host->forward().recordable());
}

absl::Status Server::Parts::Serve() {
  const v1::WorkerConfig& w = config.worker();
  service =
      MakeDecodeService({.submit =
                             [this](DecodeJob job, std::shared_ptr<TokenBuffer> out) {
                               return table->Submit(std::move(job), std::move(out));
                             },
                         .cancel =
                             [this](AttemptId id) {
                               table->Cancel(id, absl::CancelledError("cancelled by the router"));
                             },
                         .token_limit = host->vocabulary().limit});
  if (leads())
    group_leader = worker::GroupLeader::Create(GroupOptionsOf(w.grpc_port()), GroupCallbacksOf());
  std::vector<grpc::Service*> services = {service.get()};
  if (group_leader) services.push_back(group_leader->service());
  BALEEN_ASSIGN_OR_RETURN(auto listening, worker::ListenGrpc(w.grpc_port(), services));
  grpc_server = std::move(listening.server);
  grpc_port = listening.port;
  if (group_leader)
    group_leader->Start();
  else
    membership = worker::JoinGroup(GroupOptionsOf(grpc_port), GroupCallbacksOf());
  return absl::OkStatus();
}

worker::GroupOptions Server::Parts::GroupOptionsOf(int port) const {
  const v1::WorkerConfig& w = config.worker();
  return {.size = w.size(),
          .self = {.index = w.index(),
                   .incarnation = incarnation,
                   .grpc_address = absl::StrCat(HostName(), ":", port),
                   .transport_address = transport->LocalAddress(),
                   .pid = getpid(),
                   .metrics_address = absl::StrCat(HostName(), ":", metrics_server->port()),
                   .pages = host->pages()},
          .fingerprint = GroupFingerprint(),
          .leader = w.leader(),
          .lease_ms = w.lease_ms()};
}

// The cluster's, and what only the ranks of a group must have alike.
Fingerprint Server::Parts::GroupFingerprint() const {
  Fingerprint fingerprint = host->fingerprint();
  if (ranks() == 1) return fingerprint;
  fingerprint.push_back({"expert_exchange", decode_worker::Name(exchange_kind)});
  fingerprint.push_back({"max_sequences", absl::StrCat(max_sequences())});
  return fingerprint;
}

worker::GroupCallbacks Server::Parts::GroupCallbacksOf() {
  return {.formed =
              [this](std::vector<worker::MemberInfo> members, Incarnation) {
                if (!formed_set.exchange(true)) formed.set_value(std::move(members));
              },
          .broken =
              [this](const absl::Status& why) {
                // Through the mesh, so that the streams end with the cause.
                if (!finished) mesh->Fail(why);
              },
          .drain = [this] { SetDraining(true); },
          .undrain = [this] { SetDraining(false); },
          .stop = [] {},
          .load = [this] { return LoadNow(); }};
}

worker::Load Server::Parts::LoadNow() {
  const RequestTable::Counts counts = table->counts();
  std::string transports;
  {
    MutexLock lock(wires_mu);
    transports = absl::StrJoin(wires, ",");
  }
  return {.total_pages = counts.pages.total,
          .free_pages = counts.pages.free,
          .quarantined_pages = counts.pages.quarantined,
          .running = counts.granted + counts.ready + counts.running,
          .waiting = counts.waiting,
          .waiting_tokens = counts.waiting_tokens,
          .transports = std::move(transports),
          .accept_length = loop->accept_length(),
          .unready = counts.unready};
}

// The step thread: waits for the group, connects the ranks, steps until the end.
void Server::Parts::RunSteps() {
  pthread_setname_np(pthread_self(), "step");
  host->backend().MakeCurrent();
  absl::Status status = ConnectRanks();
  if (status.ok()) status = loop->Run();
  if (status.ok() && group_leader) group_leader->Stop();
  if (!absl::IsCancelled(status)) shutdown.Request(status);
  steps_over.set_value();
}

absl::Status Server::Parts::ConnectRanks() {
  const std::vector<worker::MemberInfo> members = formed.get_future().get();
  if (members.empty()) return absl::CancelledError("ends before the group was formed");
  std::vector<kv_transfer::PeerAddress> peers;
  for (const worker::MemberInfo& member : members)
    peers.push_back({.name = absl::StrCat(config.worker().group(), "/", member.index),
                     .transport_address = member.transport_address,
                     .incarnation = member.incarnation});
  BALEEN_RETURN_IF_ERROR(rank_links->Connect(*mesh, peers, kConnectTimeout));
  if (peer_exchange) BALEEN_RETURN_IF_ERROR(peer_exchange->Connect(*mesh));
  step->Record();
  BALEEN_RETURN_IF_ERROR(Exchanged());
  spdlog::info("group {} of {} ranks is formed", config.worker().group(), members.size());
  if (leads()) Register(members);
  return WriteReadyFile(config.worker().ready_file(),
                        {{"grpc_port", grpc_port}, {"metrics_port", metrics_server->port()}});
}

// Has every rank taken part in the exchanges so far?
absl::Status Server::Parts::Exchanged() const {
  BALEEN_RETURN_IF_ERROR(mesh->status());
  return peer_exchange ? peer_exchange->Check(*mesh) : absl::OkStatus();
}

void Server::Parts::Register(const std::vector<worker::MemberInfo>& members) {
  MutexLock lock(directory_mu);
  directory = worker::DirectoryClient::Create(
      {config.worker().routers().begin(), config.worker().routers().end()},
      {.role = worker::Role::kDecode,
       .group = config.worker().group(),
       .incarnation = incarnation,
       .members = members,
       .fingerprint = host->fingerprint(),
       .max_context = host->options().max_context,
       .pool_tokens = int64_t{worker::SmallestPool(members)} * kPageTokens,
       .drafts = host->options().drafts},
      {.loads = [this] { return group_leader->Loads(); },
       .drain = [this] { SetDraining(true); },
       .undrain = [this] { SetDraining(false); },
       .flush_cache = [] { return uint64_t{0}; },
       .flushed = [] { return uint64_t{0}; }});
  directory->SetState(worker::State::kReady);
}

// A rank that hangs, in a step or before it takes what is ready for one, answers its heartbeats all
// the same.
void Server::Parts::Watch() {
  std::optional<TimePoint> start = loop->step_start();
  if (!start)
    if (const auto ready = table->OldestReady()) start = std::max(*ready, loop->last_turn());
  if (!start || SteadyClock().Now() - *start < StepTimeout() || !mesh->status().ok()) return;
  const auto why = absl::UnavailableError("a step takes longer than worker.step_timeout_ms");
  mesh->Fail(why);        // ends the process
  table->CancelAll(why);  // the step thread cannot
}

// On the leader: of the whole group. Any thread.
void Server::Parts::SetDraining(bool on) {
  if (!on && (exiting || !mesh->status().ok())) return;
  table->SetDraining(on);
  if (!group_leader) return;
  on ? group_leader->Drain() : group_leader->Undrain();
  MutexLock lock(directory_mu);
  if (directory) directory->SetState(on ? worker::State::kDraining : worker::State::kReady);
}

Server::Server() = default;
Server::~Server() = default;

absl::StatusOr<std::unique_ptr<Server>> Server::Create(const v1::DecodeConfig& config,
                                                       ShutdownSignal& shutdown) {
  std::unique_ptr<Server> server(new Server);
  server->parts_ = std::make_unique<Parts>(config, shutdown);
  BALEEN_RETURN_IF_ERROR(server->parts_->Build());
  return server;
}

void Server::Drain() {
  Parts& p = *parts_;
  const v1::WorkerConfig& w = p.config.worker();
  const milliseconds timeout(w.drain_timeout_ms());
  p.GiveUpForming();
  p.exiting = true;
  p.SetDraining(true);
  if (p.membership) p.membership->Drain();
  p.loop->RequestExit();
  if (p.steps_end.wait_for(timeout) == std::future_status::ready) return;
  spdlog::warn("drain_timeout_ms is over, ending what still runs");
  p.table->CancelAll(absl::UnavailableError("decode rank is shutting down"));
  p.steps_end.wait_for(std::chrono::seconds(5));
}

}  // namespace baleen::decode_worker
