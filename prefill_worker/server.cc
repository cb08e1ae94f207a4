#include "prefill_worker/server.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <future>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/ready_file.h"
#include "common/status_macros.h"
#include "grpcpp/impl/service_type.h"
#include "grpcpp/server.h"
#include "kv_transfer/kv_sender.h"
#include "kv_transfer/link_table.h"
#include "kv_transfer/ucx/ucx_transport.h"
#include "model/config.h"
#include "prefill_worker/prefill_service.h"
#include "prefill_worker/stage_loop.h"
#include "proto/config.pb.h"
#include "worker/directory_client.h"
#include "worker/group.h"
#include "worker/grpc_server.h"
#include "worker/model_host.h"
#include "worker/process_config.h"
#include "worker/ticker.h"

namespace baleen::prefill_worker {
namespace {

template <typename Config>
int Or(bool present, Config value, int otherwise) {
  return present ? static_cast<int>(value) : otherwise;
}

// How long streams that have ended may take to reach the router, and members to hear that it is
// over, when the process ends.
constexpr auto kLastWrites = std::chrono::seconds(2);
// How often the watchdog looks.
constexpr auto kWatch = std::chrono::milliseconds(200);

// Rows of one Logits call: more prompts than this that end in one batch take several calls.
constexpr int kHeadRows = 64;

absl::Status Check(const v1::PrefillConfig& config) {
  if (config.has_chunk_tokens() && config.chunk_tokens() < kPageTokens)
    return absl::InvalidArgumentError(
        absl::StrCat("chunk_tokens: ", config.chunk_tokens(), " is below a page's ", kPageTokens));
  if (config.has_max_sequences() && config.max_sequences() < 1)
    return absl::InvalidArgumentError("max_sequences: below 1");
  return absl::OkStatus();
}

}  // namespace

// Declared in the order of dependence; destroyed in reverse.
struct Server::Parts {
  Parts(const v1::PrefillConfig& config, ShutdownSignal& shutdown)
      : config(config), shutdown(shutdown) {}
  ~Parts();

  absl::Status Build();
  absl::Status BuildTransfer();
  size_t SlotBytes(const worker::ModelHost& h) const;
  size_t ActivationBytes(const worker::ModelHost& h) const;
  absl::StatusOr<ActivationMemory> MakeActivations();
  absl::Status BuildServices();
  void OnFormed(const std::vector<worker::MemberInfo>& members, Incarnation group);
  worker::GroupCallbacks GroupCallbacksOf();
  worker::Load LoadNow() const;
  void Register(const std::vector<worker::MemberInfo>& members, Incarnation group);
  absl::Status Submit(PrefillJob job, std::shared_ptr<PrefillSink> sink);
  void OnReport(StageReport report);
  void StartLoop();
  void Broken(const absl::Status& why);
  void Watch();
  void SetOver();
  void SetDraining(bool on);
  void FinishTransportTasks();

  bool leads() const { return config.worker().index() == 0; }
  int max_rows() const { return Or(config.has_chunk_tokens(), config.chunk_tokens(), 8192); }
  int max_sequences() const { return Or(config.has_max_sequences(), config.max_sequences(), 64); }
  // The cluster's, and what only the stages of a group must have alike.
  Fingerprint GroupFingerprint() const;
  engine::PrefillStep::Options StepOptions(const worker::ModelHost& h) const {
    return {.shard = h.shard(),
            .drafts = h.options().drafts,
            .max_rows = max_rows(),
            .max_head_rows = kHeadRows,
            .max_context = h.options().max_context,
            .vocabulary = h.vocabulary()};
  }
  bool last() const { return config.worker().index() == config.worker().size() - 1; }
  std::string Name() const {
    return absl::StrCat(config.worker().group(), "/", config.worker().index());
  }
  TimePoint DrainDeadline() const {
    return SteadyClock().Now() + std::chrono::milliseconds(config.worker().drain_timeout_ms());
  }
  Duration StepTimeout() const {
    return std::chrono::milliseconds(config.worker().step_timeout_ms());
  }
  // nullptr until the group is formed.
  Leader* leader() const { return formed.load() ? leader_owner.get() : nullptr; }

  v1::PrefillConfig config;  // completed by Build
  ShutdownSignal& shutdown;
  const Incarnation incarnation{RandomId()};
  Metrics metrics;
  std::unique_ptr<MetricsServer> metrics_server;
  std::unique_ptr<worker::ModelHost> host;
  // Of ActivationMemory: one of them; like the pool, they outlive the transport.
  std::unique_ptr<std::byte[]> host_activations;
  model::DeviceBlock device_activations;
  std::unique_ptr<kv_transfer::Transport> transport;
  std::unique_ptr<kv_transfer::LinkTable> links;
  std::unique_ptr<Pipeline> pipeline;
  std::unique_ptr<HandOverLedger> ledger;
  std::unique_ptr<kv_transfer::KvSender> sender;
  std::unique_ptr<engine::PrefillStep> step;
  std::unique_ptr<Stage> stage;
  std::unique_ptr<Leader> leader_owner;
  std::unique_ptr<StageLoop> loop;
  std::atomic<bool> formed = false;
  std::atomic<bool> ending = false;   // the leader says so: what vanishes now is no failure
  std::atomic<bool> exiting = false;  // SIGTERM: a drain cannot be taken back
  std::atomic<bool> over_set = false;
  std::promise<void> over;  // told to stop, or broken: there is nothing to wait for
  std::unique_ptr<worker::GroupLeader> group_leader;
  std::unique_ptr<grpc::Service> service;
  std::unique_ptr<grpc::Server> grpc_server;
  std::unique_ptr<worker::GroupMembership> membership;  // stages other than the first
  Mutex directory_mu;
  std::unique_ptr<worker::DirectoryClient> directory ABSL_GUARDED_BY(directory_mu);
  std::unique_ptr<worker::Ticker> watchdog;  // on the leader, once the group is formed
};

Server::Parts::~Parts() {
  // Nothing from outside may arrive any more before the parts go.
  std::unique_ptr<worker::DirectoryClient> last_words;
  {
    MutexLock lock(directory_mu);
    last_words = std::move(directory);
  }
  last_words.reset();
  membership.reset();
  // Streams end with a cause, and have time to say so.
  if (Leader* l = leader()) l->Break(absl::UnavailableError("the prefill group has ended"));
  if (grpc_server) grpc_server->Shutdown(std::chrono::system_clock::now() + kLastWrites);
  watchdog.reset();
  // The step thread uses sender and pipeline; their callbacks, on the transport's thread, use loop,
  // leader and ledger. So: no more steps, then no more callbacks, then the objects in reverse
  // order.
  if (loop && !loop->JoinWithin(StepTimeout())) {
    spdlog::critical("the step thread hangs, the process ends without it: {}",
                     shutdown.status().ToString());
    std::_Exit(1);
  }
  sender.reset();
  FinishTransportTasks();
  pipeline.reset();
  FinishTransportTasks();
}

void Server::Parts::FinishTransportTasks() {
  if (transport == nullptr) return;
  std::promise<void> done;
  transport->Post([&done] { done.set_value(); });
  done.get_future().wait();
}

absl::Status Server::Parts::Build() {
  BALEEN_RETURN_IF_ERROR(worker::Complete(*config.mutable_worker()));
  BALEEN_RETURN_IF_ERROR(Check(config));
  BALEEN_ASSIGN_OR_RETURN(worker::ModelOptions options, worker::ModelOptionsFrom(config.worker()));
  const worker::ForwardLimits limits{
      .max_rows = max_rows(),
      .max_sequences = max_sequences(),
      .max_head_rows = kHeadRows,
      .step_bytes = [this](worker::ModelHost& h) {
        return engine::PrefillStep::PlannedBytes(StepOptions(h)) +
               (h.backend().host_memory() || h.options().peer_memory == "host"
                    ? 0
                    : ActivationBytes(h));
      }};
  BALEEN_ASSIGN_OR_RETURN(
      host, worker::ModelHost::Create(options, worker::ModelHost::Split::kPipelineStage,
                                      config.worker().index(), config.worker().size(), limits));
  BALEEN_RETURN_IF_ERROR(host->BuildForward(nullptr));
  BALEEN_ASSIGN_OR_RETURN(
      metrics_server, MetricsServer::Create(metrics, "0.0.0.0", config.worker().metrics_port()));
  BALEEN_RETURN_IF_ERROR(BuildTransfer());
  step = std::make_unique<engine::PrefillStep>(host->forward(), StepOptions(*host));
  stage = std::make_unique<Stage>(
      *step, *sender, *ledger,
      Stage::Options{
          .index = config.worker().index(),
          .size = config.worker().size(),
          .token_limit = host->vocabulary().limit,
          .pages = host->pages(),
          .max_rows = max_rows(),
          .max_sequences = max_sequences(),
          .to_wire = [this](std::span<const PageId> pages) { host->wire_pool().ToWire(pages); },
          .report = [this](StageReport r) { pipeline->Report(std::move(r)); }},
      metrics);
  if (!leads()) StartLoop();  // before a batch can arrive
  return BuildServices();
}

size_t Server::Parts::SlotBytes(const worker::ModelHost& h) const {
  return size_t(max_rows()) * size_t(h.config().hidden_size) * sizeof(float);
}

size_t Server::Parts::ActivationBytes(const worker::ModelHost& h) const {
  return size_t((leads() ? 0 : kActivationSlots) + (last() ? 0 : 1)) * SlotBytes(h);
}

absl::StatusOr<ActivationMemory> Server::Parts::MakeActivations() {
  ActivationMemory memory = {.kind = host->pool_view().memory, .slot_bytes = SlotBytes(*host)};
  const size_t bytes = ActivationBytes(*host);
  if (memory.kind == kv_transfer::MemoryKind::kDevice) {
    device_activations = model::DeviceBlock(host->backend(), bytes);
  } else {
    host_activations.reset(new (std::nothrow) std::byte[bytes]);  // touched as it is used
  }
  std::byte* const begin = host_activations ? host_activations.get() : device_activations.data();
  if (begin == nullptr && bytes > 0)
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for activations between stages, ", bytes, " bytes"));
  if (!leads()) memory.in = begin;
  if (!last()) memory.out = begin + (leads() ? 0 : kActivationSlots) * memory.slot_bytes;
  return memory;
}

absl::Status Server::Parts::BuildTransfer() {
  const v1::WorkerConfig& w = config.worker();
  BALEEN_ASSIGN_OR_RETURN(
      transport, kv_transfer::CreateUcxTransport({.name = Name(),
                                                  .transports = host->TransportsFor(w.transport()),
                                                  .peer_memory = host->peer_memory(),
                                                  .device_ways = host->device_ways()}));
  kv_transfer::LinkOptions options{.name = Name(),
                                   .incarnation = incarnation,
                                   .fingerprint = host->fingerprint(),
                                   .pool = host->pool_view(),
                                   .require_transport = w.require_transport(),
                                   .lease = std::chrono::milliseconds(w.lease_ms())};
  BALEEN_ASSIGN_OR_RETURN(links, kv_transfer::LinkTable::Create(*transport, options, metrics));
  BALEEN_ASSIGN_OR_RETURN(const ActivationMemory memory, MakeActivations());
  pipeline = std::make_unique<Pipeline>(
      *links, w.index(), memory,
      Pipeline::Callbacks{
          .batch = [this](Pipeline::Batch batch) { loop->Enqueue(std::move(batch)); },
          .report = [this](StageReport r) { OnReport(std::move(r)); },
          .broken = [this](const absl::Status& why) { Broken(why); }});
  ledger = std::make_unique<HandOverLedger>(
      w.index(), [this](StageReport r) { pipeline->Report(std::move(r)); });
  uint32_t components = kv_transfer::kComponentLatent;
  if (host->layout().index_dim > 0) components |= kv_transfer::kComponentIndex;
  if (host->shard().mtp) components |= kv_transfer::kComponentDraft;
  sender = kv_transfer::KvSender::Create(
      *links,
      {.stage = w.index(),
       .stages = w.size(),
       .components = components,
       .window_chunks = Or(config.has_transfer_window(), config.transfer_window(), 4)},
      {.closed = [this](AttemptId id, absl::Status s) { ledger->Closed(id, std::move(s)); },
       .granted =
           [this](AttemptId id) {
             if (Leader* l = leader()) l->Granted(id);
           },
       .handed_off =
           [this](AttemptId id) {
             if (!last()) return;
             pipeline->Report({.kind = StageReport::Kind::kHandedOff,
                               .stage = config.worker().index(),
                               .attempt = id});
           }},
      metrics);
  return absl::OkStatus();
}

void Server::Parts::StartLoop() {
  loop = std::make_unique<StageLoop>(StageLoop::Parts{
      .backend = host->backend(),
      .forward = host->forward(),
      .stage = *stage,
      .pipeline = *pipeline,
      .leader = leader_owner.get(),
      .last = last(),
      .hidden_size = host->config().hidden_size,
      .activations_on_device = host->pool_view().memory == kv_transfer::MemoryKind::kDevice,
      .broken = [this](const absl::Status& why) { Broken(why); }});
}

// The group cannot go on: its attempts end with the cause, then the process does. Any thread.
void Server::Parts::Broken(const absl::Status& why) {
  if (ending) return;
  if (Leader* l = leader()) l->Break(why);
  shutdown.Request(why);
  SetOver();
}

void Server::Parts::SetOver() {
  if (!over_set.exchange(true)) over.set_value();
}

// A stage that hangs answers its heartbeats all the same: only its work shows it.
void Server::Parts::Watch() {
  const std::optional<TimePoint> oldest = leader()->OldestWork();
  if (!oldest || SteadyClock().Now() - *oldest < StepTimeout()) return;
  Broken(absl::UnavailableError("a batch has not come back within worker.step_timeout_ms"));
}

void Server::Parts::OnReport(StageReport report) {
  if (Leader* l = leader()) l->Report(std::move(report));
}

absl::Status Server::Parts::BuildServices() {
  const v1::WorkerConfig& w = config.worker();
  const std::string host_name = w.host().empty() ? "127.0.0.1" : w.host();
  worker::GroupOptions options{
      .size = w.size(),
      .self = {.index = w.index(),
               .incarnation = incarnation,
               .transport_address = transport->LocalAddress(),
               .pid = getpid(),
               .metrics_address = absl::StrCat(host_name, ":", metrics_server->port()),
               .pages = host->pages()},
      .fingerprint = GroupFingerprint(),
      .leader = w.leader(),
      .lease_ms = w.lease_ms()};
  if (!leads()) {
    membership = worker::JoinGroup(options, GroupCallbacksOf());
    return absl::OkStatus();
  }
  // The port must be known before the group is formed, and the service must stand before the port.
  service = MakePrefillService({.submit =
                                    [this](PrefillJob job, std::shared_ptr<PrefillSink> s) {
                                      return Submit(std::move(job), std::move(s));
                                    },
                                .cancel =
                                    [this](AttemptId id) {
                                      if (Leader* l = leader()) l->Cancel(id);
                                    },
                                .token_limit = host->vocabulary().limit});
  options.self.grpc_address = absl::StrCat(host_name, ":", w.grpc_port());
  group_leader = worker::GroupLeader::Create(options, GroupCallbacksOf());
  BALEEN_ASSIGN_OR_RETURN(
      auto listening, worker::ListenGrpc(w.grpc_port(), {service.get(), group_leader->service()}));
  grpc_server = std::move(listening.server);
  group_leader->Start();
  return absl::OkStatus();
}

absl::Status Server::Parts::Submit(PrefillJob job, std::shared_ptr<PrefillSink> sink) {
  Leader* l = leader();
  if (l == nullptr) return absl::UnavailableError("prefill group is starting");
  return l->Submit(std::move(job), std::move(sink));
}

worker::GroupCallbacks Server::Parts::GroupCallbacksOf() {
  return {.formed = [this](std::vector<worker::MemberInfo> members,
                           Incarnation group) { OnFormed(members, group); },
          .broken = [this](const absl::Status& why) { Broken(why); },
          .drain =
              [this] {
                // To the leader: a stage got SIGTERM, so the whole group ends in good order.
                if (leads()) shutdown.Request(absl::OkStatus());
              },
          .undrain = [] {},
          .stop =
              [this] {
                ending = true;
                shutdown.Request(absl::OkStatus());
                SetOver();
              },
          .load = [this] { return LoadNow(); }};
}

Fingerprint Server::Parts::GroupFingerprint() const {
  Fingerprint fingerprint = host->fingerprint();
  fingerprint.push_back({"chunk_tokens", absl::StrCat(max_rows())});
  fingerprint.push_back({"max_sequences", absl::StrCat(max_sequences())});
  return fingerprint;
}

worker::Load Server::Parts::LoadNow() const {
  worker::Load load{.total_pages = host->pages(), .free_pages = host->pages()};
  if (Leader* l = leader()) {
    const Leader::Load now = l->load();
    load.total_pages = now.total_pages;
    load.free_pages = now.free_pages;
    load.running = now.running;
    load.waiting = now.waiting;
    load.waiting_tokens = now.waiting_tokens;
    load.ungranted_tokens = now.ungranted_tokens;
  }
  return load;
}

void Server::Parts::OnFormed(const std::vector<worker::MemberInfo>& members, Incarnation group) {
  if (leads()) {
    leader_owner = std::make_unique<Leader>(
        LeaderOptions{.stages = config.worker().size(),
                      .chunk = {.rows = max_rows(), .sequences = max_sequences()},
                      .pages = worker::SmallestPool(members),
                      .drafts = host->options().drafts,
                      .max_context = host->options().max_context,
                      .prefix_cache = !config.has_prefix_cache() || config.prefix_cache(),
                      .max_ungranted_tokens = Or(config.has_max_ungranted_tokens(),
                                                 config.max_ungranted_tokens(), 262144),
                      .max_queued = Or(config.has_max_queued(), config.max_queued(), 4096)},
        metrics);
  }
  if (leads()) StartLoop();
  pipeline->Connect(members);
  formed.store(true);
  if (leads()) {
    watchdog = std::make_unique<worker::Ticker>(kWatch, [this] { Watch(); });
    Register(members, group);
  }
  const absl::Status written = WriteReadyFile(
      config.worker().ready_file(),
      {{"grpc_port", config.worker().grpc_port()}, {"metrics_port", metrics_server->port()}});
  if (!written.ok()) shutdown.Request(written);
  spdlog::info("group {} of {} stages is formed", config.worker().group(), members.size());
}

void Server::Parts::Register(const std::vector<worker::MemberInfo>& members, Incarnation group) {
  MutexLock lock(directory_mu);
  directory = worker::DirectoryClient::Create(
      {config.worker().routers().begin(), config.worker().routers().end()},
      {.role = worker::Role::kPrefill,
       .group = config.worker().group(),
       .incarnation = group,
       .members = members,
       .fingerprint = host->fingerprint(),
       .max_context = host->options().max_context,
       .pool_tokens = int64_t{worker::SmallestPool(members)} * kPageTokens,
       .drafts = host->options().drafts},
      {.loads = [this] { return group_leader->Loads(); },
       .drain = [this] { SetDraining(true); },
       .undrain = [this] { SetDraining(false); },
       .flush_cache = [this] { return leader()->FlushCache(); },
       .flushed = [this] { return leader()->flushed(); }});
  directory->SetState(worker::State::kReady);
}

// On the leader, of a formed group. Any thread.
void Server::Parts::SetDraining(bool on) {
  MutexLock lock(directory_mu);
  if (!on && exiting) return;
  leader()->Drain(on);
  if (directory) directory->SetState(on ? worker::State::kDraining : worker::State::kReady);
}

Server::Server() = default;
Server::~Server() = default;

absl::StatusOr<std::unique_ptr<Server>> Server::Create(const v1::PrefillConfig& config,
                                                       ShutdownSignal& shutdown) {
  std::unique_ptr<Server> server(new Server);
  server->parts_ = std::make_unique<Parts>(config, shutdown);
  BALEEN_RETURN_IF_ERROR(server->parts_->Build());
  return server;
}

void Server::Drain() {
  Parts& p = *parts_;
  const TimePoint deadline = p.DrainDeadline();
  if (!p.leads()) {
    if (!p.formed) return;  // nobody has work for it
    p.membership->Drain();
    p.over.get_future().wait_until(deadline);
    return;
  }
  if (Leader* leader = p.leader()) {
    p.exiting = true;
    p.SetDraining(true);
    const absl::Status idle = leader->WaitIdle(deadline);
    if (!idle.ok()) spdlog::warn("drained with work left: {}", idle.ToString());
  }
  p.ending = true;
  p.group_leader->Stop();
}

}  // namespace baleen::prefill_worker
