#include "router/server.h"

#include <boost/asio/thread_pool.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/ready_file.h"
#include "common/status_macros.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "proto/config.pb.h"
#include "router/grpc/directory_service.h"
#include "router/grpc/grpc_worker_clients.h"
#include "router/grpc/inference_service.h"
#include "router/http/http_server.h"

namespace baleen::router {
namespace {

using std::chrono::milliseconds;

constexpr int kMaxGrpcMessageBytes = 256 << 20;
constexpr int kGrpcStreamLookaheadBytes = 16 << 20;
constexpr auto kTick = milliseconds(100);

int OrDefault(bool has, int value, int otherwise) { return has ? value : otherwise; }

absl::StatusOr<Dispatcher::Options> DispatchOptions(const v1::RouterConfig& c) {
  Dispatcher::Options options;
  auto policy = ParsePolicy(c.prefill_policy());
  if (!policy.ok())
    return absl::InvalidArgumentError(absl::StrCat("prefill_policy: ", policy.status().message()));
  options.placement.prefill = *policy;
  policy = ParsePolicy(c.decode_policy());
  if (!policy.ok())
    return absl::InvalidArgumentError(absl::StrCat("decode_policy: ", policy.status().message()));
  options.placement.decode = *policy;
  options.max_queued = OrDefault(c.has_max_queued(), c.max_queued(), 1024);
  options.queue_timeout =
      milliseconds(OrDefault(c.has_queue_timeout_ms(), c.queue_timeout_ms(), 30000));
  return options;
}

// Of a request, over either wire.
int MaxBodyBytes(const v1::RouterConfig& c) {
  return OrDefault(c.has_max_body_bytes(), c.max_body_bytes(), 32 << 20);
}

absl::StatusOr<HttpOptions> HttpOptionsFrom(const v1::RouterConfig& c) {
  HttpOptions options;
  if (!c.host().empty()) options.host = c.host();
  options.port = OrDefault(c.has_http_port(), c.http_port(), 8000);
  options.threads = OrDefault(c.has_http_threads(), c.http_threads(), 2);
  options.max_connections = OrDefault(c.has_http_connections(), c.http_connections(), 4096);
  options.limits.body_timeout =
      milliseconds(OrDefault(c.has_body_timeout_ms(), c.body_timeout_ms(), 60000));
  options.limits.max_body_bytes = static_cast<size_t>(MaxBodyBytes(c));
  options.limits.write_buffer_bytes =
      static_cast<size_t>(OrDefault(c.has_write_buffer_bytes(), c.write_buffer_bytes(), 1 << 20));
  if (options.port < 0 || options.port > 65535)
    return absl::InvalidArgumentError("http_port: not a port");
  if (options.threads < 1) return absl::InvalidArgumentError("http_threads: must be at least 1");
  if (options.max_connections < 1)
    return absl::InvalidArgumentError("http_connections: must be at least 1");
  if (options.limits.body_timeout < milliseconds(1))
    return absl::InvalidArgumentError("body_timeout_ms: must be at least 1");
  if (c.max_body_bytes() < 0 || c.write_buffer_bytes() < 0)
    return absl::InvalidArgumentError("max_body_bytes, write_buffer_bytes: must not be negative");
  return options;
}

}  // namespace

Server::Server(ModelInfo model, Dispatcher::Options dispatch, Duration flush_timeout)
    : model_(std::move(model)),
      metrics_(metrics_registry_),
      clients_(GrpcWorkerClients::Create()),
      directory_({}, model_.OwnFingerprint(), SteadyClock()),
      dispatcher_(dispatch, directory_, *clients_, SteadyClock(), metrics_),
      directory_service_(DirectoryService::Create(directory_)),
      heavy_(std::make_unique<boost::asio::thread_pool>(1)),
      context_(new RouterContext{.model = model_,
                                 .directory = directory_,
                                 .dispatcher = dispatcher_,
                                 .registry = registry_,
                                 .commander = *directory_service_,
                                 .metrics = metrics_,
                                 .heavy = *heavy_,
                                 .clock = SteadyClock(),
                                 .draining = draining_,
                                 .flush_timeout = flush_timeout}) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Create(const v1::RouterConfig& config,
                                                       ShutdownSignal&) {
  BALEEN_ASSIGN_OR_RETURN(const Dispatcher::Options dispatch, DispatchOptions(config));
  BALEEN_ASSIGN_OR_RETURN(ModelInfo model, ModelInfo::Load(config.model(), config.model_name()));
  const auto flush_timeout =
      milliseconds(OrDefault(config.has_flush_timeout_ms(), config.flush_timeout_ms(), 30000));
  std::unique_ptr<Server> server(new Server(std::move(model), dispatch, flush_timeout));
  BALEEN_RETURN_IF_ERROR(server->Listen(config));
  return server;
}

absl::Status Server::Listen(const v1::RouterConfig& config) {
  drain_grace_ =
      milliseconds(OrDefault(config.has_drain_grace_ms(), config.drain_grace_ms(), 5000));
  drain_timeout_ =
      milliseconds(OrDefault(config.has_drain_timeout_ms(), config.drain_timeout_ms(), 60000));
  BALEEN_ASSIGN_OR_RETURN(const HttpOptions http, HttpOptionsFrom(config));
  BALEEN_ASSIGN_OR_RETURN(http_, HttpServer::Create(http, *context_));
  BALEEN_RETURN_IF_ERROR(ListenGrpc(config));
  http_->Every(kTick, [this] {
    directory_.Tick();
    dispatcher_.Tick();
  });
  http_->Start();
  spdlog::info("serving {} on http {}:{} and grpc port {}", model_.name, http.host, http_port(),
               grpc_port_);
  return WriteReadyFile(config.ready_file(),
                        {{"http_port", http_port()}, {"grpc_port", grpc_port_}});
}

absl::Status Server::ListenGrpc(const v1::RouterConfig& config) {
  const std::string host = config.host().empty() ? "0.0.0.0" : config.host();
  const int port = OrDefault(config.has_grpc_port(), config.grpc_port(), 9000);
  const int buffer =
      OrDefault(config.has_write_buffer_bytes(), config.write_buffer_bytes(), 1 << 20);
  inference_service_ = InferenceService::Create(*context_, static_cast<size_t>(buffer));
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  builder.AddListeningPort(absl::StrCat(host, ":", port), grpc::InsecureServerCredentials(),
                           &grpc_port_);
  builder.RegisterService(inference_service_->service());
  builder.RegisterService(directory_service_->service());
  builder.SetMaxReceiveMessageSize(MaxBodyBytes(config));
  builder.SetMaxSendMessageSize(kMaxGrpcMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kGrpcStreamLookaheadBytes);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a taken port is an error
  // Clients and load balancers that ping to keep a connection open are welcome.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
  grpc_ = builder.BuildAndStart();
  if (grpc_ == nullptr || grpc_port_ == 0)
    return absl::UnavailableError(
        absl::StrCat("grpc_port: cannot listen on ", host, ":", port, ": is the port taken?"));
  return absl::OkStatus();
}

int Server::http_port() const { return http_->port(); }

void Server::Drain() {
  draining_ = true;
  if (grpc_->GetHealthCheckService() != nullptr)
    grpc_->GetHealthCheckService()->SetServingStatus(false);
  spdlog::info("draining: not ready, still accepting");
  std::this_thread::sleep_for(drain_grace_);
  http_->StopListening();
  inference_service_->StopAccepting();
  const TimePoint deadline = SteadyClock().Now() + drain_timeout_;
  while (metrics_.requests.Value() > 0 && SteadyClock().Now() < deadline)
    std::this_thread::sleep_for(milliseconds(20));
  const double left = metrics_.requests.Value();
  if (left > 0) spdlog::warn("drain_timeout: {} requests cut off", left);
  dispatcher_.FailAll("the router is shutting down");
  // Their last bytes: the streams close by themselves.
  const TimePoint last = SteadyClock().Now() + std::chrono::seconds(2);
  while (http_->open_connections() > 0 && SteadyClock().Now() < last)
    std::this_thread::sleep_for(milliseconds(10));
}

Server::~Server() {
  constexpr char kWhy[] = "the router is shutting down";
  draining_ = true;
  if (http_ != nullptr) http_->StopListening();
  if (inference_service_ != nullptr) inference_service_->StopAccepting();
  directory_service_->CloseAll();
  dispatcher_.FailAll(kWhy);
  if (grpc_ != nullptr) {
    grpc_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
    grpc_->Wait();
  }
  if (http_ != nullptr) http_->Stop();
  heavy_.reset();             // waits for its task, drops the others
  dispatcher_.FailAll(kWhy);  // what was submitted in between
  clients_->Shutdown();       // no worker calls back any more
  directory_.SetListener(nullptr);
}

}  // namespace baleen::router
