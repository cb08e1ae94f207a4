#include "kv_transfer/ucx/ucx_transport.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "common/check.h"
#include "common/ids.h"
#include "common/status_macros.h"
#include "kv_transfer/messages.h"
#include "kv_transfer/progress_thread.h"
#include "kv_transfer/ucx/handle.h"
#include "kv_transfer/ucx/ucx_transport_device.h"
#include "kv_transfer/ucx/ucx_transport_inbox.h"
#include "kv_transfer/ucx/ucx_transport_outbox.h"
#include "kv_transfer/ucx/ucx_transport_setup.h"
#include "kv_transfer/ucx/ucx_transport_wire.h"
#include "spdlog/spdlog.h"

namespace baleen::kv_transfer {
namespace {

constexpr Duration kCloseTime = std::chrono::seconds(1);
constexpr int kProgressBurst = 16;

class UcxTransport final : public Transport {
 public:
  UcxTransport(UcpContext context, UcpWorker worker, int event_fd, const UcxOptions& options);
  ~UcxTransport() override;
  absl::Status Start();

  void Post(Task task) override { thread_->Post(std::move(task)); }
  void Every(Duration period, std::function<bool()> tick) override {
    thread_->Every(period, std::move(tick));
  }
  bool OnOwnThread() const override { return thread_->OnThread(); }
  const Clock& clock() const override { return SteadyClock(); }
  std::string LocalAddress() const override { return address_; }

  absl::StatusOr<RegionId> RegisterRegion(MemoryKind kind, void* base, size_t bytes) override;
  void DeregisterRegion(RegionId region) override;
  absl::StatusOr<std::string> PackRemoteKey(RegionId region) override;

  absl::StatusOr<EndpointId> Open(absl::string_view address) override;
  void Close(EndpointId endpoint, Task closed) override;
  void Bind(EndpointId endpoint) override;
  absl::StatusOr<RemoteKeyId> ImportKey(EndpointId endpoint, absl::string_view packed) override;
  void AgreeOnDeviceWay(EndpointId endpoint, Done done) override;
  std::string DeviceWayName(EndpointId endpoint) override;
  void Put(EndpointId endpoint, std::span<const Piece> pieces, RemoteKeyId key, Done done) override;
  void Flush(EndpointId endpoint, Done done) override;
  void Send(EndpointId endpoint, std::span<const std::byte> header,
            std::span<const std::span<const std::byte>> payload, Done done) override;

  void SetReceiver(Receiver receiver) override { receiver_ = std::move(receiver); }
  void SetFailureObserver(FailureObserver observer) override { observer_ = std::move(observer); }
  std::string WireName(EndpointId endpoint) override;
  Fence FenceOf(EndpointId) override { return Fence::kOwnClose; }

 private:
  struct Endpoint {
    UcxTransport* transport;
    EndpointId id;
    uint64_t process = 0;  // of the peer
    ucp_ep_h handle = nullptr;
    bool failed = false;
    bool closing = false;
    bool handle_closed = false;
    uint64_t sent = 0, puts = 0;
    std::map<uint64_t, uint64_t> keys;  // -> region of the peer
    std::map<uint64_t, Done> flushes;
    DeviceWay device_way = DeviceWay::kNone;
    std::map<uint64_t, Done> device_asks;      // not answered
    std::map<uint64_t, Done> device_puts;      // by PeerMemory, not answered
    std::shared_ptr<UcxInbox::Stream> stream;  // the peer's endpoint that is bound to this one
    std::vector<Task> closed;
  };

  bool Poll();
  bool Arm();
  Endpoint* Find(EndpointId id);
  void Later(Done done, absl::Status status) { outbox_.Later(std::move(done), std::move(status)); }
  void PutByPeerMemory(Endpoint& endpoint, const UcxDevice::Region& from,
                       std::span<const Piece> pieces, uint64_t region, Done done);
  void PutByUcx(Endpoint& endpoint, const UcxDevice::Region* from, std::span<const Piece> pieces,
                uint64_t region, Done done);
  void SendActive(EndpointId id, UcxActive active, Done done);
  void OnHandleClosed(EndpointId id);
  void FinishClose(EndpointId id);

  bool BindFirst(uint64_t process, const std::shared_ptr<UcxInbox::Stream>& stream);
  void Answer(uint64_t process, unsigned message, Bytes header, const std::string& text);
  void FinishCloses();
  absl::Status Handle(unsigned message, ucp_am_recv_callback_t callback);
  void OnFlushReply(const void* header, size_t header_bytes);
  void OnDeviceAnswer(const void* header, size_t header_bytes, absl::string_view text);

  const uint64_t process_ = RandomId();
  UcpContext context_;
  UcpWorker worker_;
  std::string address_;
  UcxDevice device_;
  const std::shared_ptr<BufferPool> buffers_;
  Receiver receiver_;
  FailureObserver observer_;
  std::map<uint64_t, std::unique_ptr<Endpoint>> endpoints_;
  std::map<uint64_t, EndpointId> by_process_;  // the open endpoint to a process
  // What UCX told us in its callbacks, handled after ucp_worker_progress returned: our callbacks
  // may then call anything.
  std::vector<Task> events_;
  UcxOutbox outbox_;
  UcxInbox inbox_;
  uint64_t next_id_ = 1;
  std::unique_ptr<ProgressThread> thread_;  // last
};

UcxTransport::UcxTransport(UcpContext context, UcpWorker worker, int event_fd,
                           const UcxOptions& options)
    : context_(std::move(context)),
      worker_(std::move(worker)),
      device_(options.peer_memory, options.device_ways, context_.get()),
      buffers_(BufferPool::Create(options.keep_buffer_bytes)),
      outbox_(&events_, device_.type()),
      inbox_(
          process_, buffers_, &events_, &device_,
          {.deliver =
               [this](std::span<const std::byte> header, Buffer payload) {
                 if (receiver_) receiver_(header, std::move(payload));
               },
           .bind =
               [this](uint64_t process, const std::shared_ptr<UcxInbox::Stream>& stream) {
                 return BindFirst(process, stream);
               },
           .answer =
               [this](uint64_t process, unsigned message, Bytes header, const std::string& text) {
                 Answer(process, message, std::move(header), text);
               },
           .puts_ended = [this] { FinishCloses(); }}),
      thread_(std::make_unique<ProgressThread>(
          "kv_transfer",
          ProgressThread::Poller{
              .poll = [this] { return Poll(); },
              .arm = [this] { return Arm(); },
              .fd = event_fd,
              .waiting = [this] { return outbox_.sending() || inbox_.fetching(); }},
          options.spin)) {}

absl::Status UcxTransport::Handle(unsigned message, ucp_am_recv_callback_t callback) {
  ucp_am_handler_param_t param = {};
  param.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                     UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  param.id = message;
  param.flags = UCP_AM_FLAG_WHOLE_MSG;
  param.cb = callback;
  param.arg = this;
  return FromUcs(ucp_worker_set_am_recv_handler(worker_.get(), &param),
                 "ucp_worker_set_am_recv_handler");
}

absl::Status UcxTransport::Start() {
  if (device_.memory() != nullptr) device_.memory()->MakeCurrent();
  BALEEN_RETURN_IF_ERROR(inbox_.Start(worker_.get()));
  BALEEN_RETURN_IF_ERROR(
      Handle(kFlushReplyId, [](void* self, const void* header, size_t header_bytes, void*, size_t,
                               const ucp_am_recv_param_t*) {
        static_cast<UcxTransport*>(self)->OnFlushReply(header, header_bytes);
        return UCS_OK;
      }));
  BALEEN_RETURN_IF_ERROR(
      Handle(kDeviceAnswerId, [](void* self, const void* header, size_t header_bytes, void* data,
                                 size_t bytes, const ucp_am_recv_param_t*) {
        static_cast<UcxTransport*>(self)->OnDeviceAnswer(header, header_bytes,
                                                         {static_cast<const char*>(data), bytes});
        return UCS_OK;
      }));
  ucp_address_t* address = nullptr;
  size_t size = 0;
  BALEEN_RETURN_IF_ERROR(
      FromUcs(ucp_worker_get_address(worker_.get(), &address, &size), "ucp_worker_get_address"));
  address_ = Seal("address", process_, {reinterpret_cast<const char*>(address), size});
  ucp_worker_release_address(worker_.get(), address);
  return absl::OkStatus();
}

UcxTransport::~UcxTransport() {
  RunOn(*this, [this] {
    receiver_ = nullptr;
    observer_ = nullptr;
    std::vector<EndpointId> ids;
    for (const auto& [id, endpoint] : endpoints_) ids.push_back(EndpointId{id});
    for (EndpointId id : ids) Close(id, [] {});
  });
  const TimePoint deadline = std::chrono::steady_clock::now() + kCloseTime;
  for (bool empty = false; !empty && std::chrono::steady_clock::now() < deadline;)
    RunOn(*this, [&] { empty = endpoints_.empty(); });
  thread_.reset();
  worker_.reset();
}

// ---- progress ----------------------------------------------------------------------------------

bool UcxTransport::Poll() {
  bool worked = false;
  for (int i = 0; i < kProgressBurst && ucp_worker_progress(worker_.get()) > 0; ++i) worked = true;
  worked |= inbox_.Poll();
  if (events_.empty()) return worked;
  std::vector<Task> events;
  events.swap(events_);
  for (Task& event : events) event();
  return true;
}

bool UcxTransport::Arm() {
  if (!events_.empty()) return false;
  const ucs_status_t status = ucp_worker_arm(worker_.get());
  if (status != UCS_OK && status != UCS_ERR_BUSY)
    spdlog::error("ucp_worker_arm: {}", ucs_status_string(status));
  return status == UCS_OK;
}

// ---- regions and endpoints ---------------------------------------------------------------------

absl::StatusOr<RegionId> UcxTransport::RegisterRegion(MemoryKind kind, void* base, size_t bytes) {
  const RegionId id{next_id_++};
  auto* const begin = static_cast<std::byte*>(base);
  if (kind == MemoryKind::kDevice) BALEEN_RETURN_IF_ERROR(device_.Register(id.value, begin, bytes));
  inbox_.AddRegion(id.value, {kind, begin, bytes});
  return id;
}

void UcxTransport::DeregisterRegion(RegionId region) {
  inbox_.RemoveRegion(region.value);
  device_.Deregister(region.value);
}

absl::StatusOr<std::string> UcxTransport::PackRemoteKey(RegionId region) {
  if (!inbox_.HasRegion(region.value)) return absl::NotFoundError("transport: no such region");
  return Seal("key", region.value, "");
}

absl::StatusOr<EndpointId> UcxTransport::Open(absl::string_view address) {
  BALEEN_ASSIGN_OR_RETURN(const Sealed peer, Unseal("address", address));
  auto endpoint = std::make_unique<Endpoint>();
  endpoint->transport = this;
  endpoint->id = EndpointId{next_id_++};
  endpoint->process = peer.number;
  ucp_ep_params_t params = {};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(peer.bytes.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.arg = endpoint.get();
  params.err_handler.cb = [](void* arg, ucp_ep_h, ucs_status_t status) {
    auto* broken = static_cast<Endpoint*>(arg);
    UcxTransport* self = broken->transport;
    if (std::exchange(broken->failed, true)) return;
    self->events_.push_back([self, id = broken->id, status] {
      if (self->Find(id) != nullptr && self->observer_)
        self->observer_(id, FromUcs(status, "wire"));
    });
  };
  BALEEN_RETURN_IF_ERROR(
      FromUcs(ucp_ep_create(worker_.get(), &params, &endpoint->handle), "ucp_ep_create"));
  const EndpointId id = endpoint->id;
  by_process_[peer.number] = id;
  endpoints_[id.value] = std::move(endpoint);
  return id;
}

void UcxTransport::Bind(EndpointId id) {
  if (Endpoint* endpoint = Find(id)) inbox_.BindDelivering(endpoint->process, &endpoint->stream);
}

bool UcxTransport::BindFirst(uint64_t process, const std::shared_ptr<UcxInbox::Stream>& stream) {
  const auto open = by_process_.find(process);
  if (open == by_process_.end()) return false;
  Endpoint& endpoint = *endpoints_.at(open->second.value);
  if (endpoint.stream != nullptr) return false;
  endpoint.stream = stream;
  return true;
}

void UcxTransport::Close(EndpointId id, Task closed) {
  const auto it = endpoints_.find(id.value);
  if (it == endpoints_.end()) return events_.push_back(std::move(closed));
  Endpoint& endpoint = *it->second;
  endpoint.closed.push_back(std::move(closed));
  if (std::exchange(endpoint.closing, true)) return;
  if (const auto open = by_process_.find(endpoint.process);
      open != by_process_.end() && open->second == id)
    by_process_.erase(open);
  // From here on the peer writes nothing: its later puts are dropped, fetches under way are waited
  // for.
  if (endpoint.stream != nullptr) inbox_.Fence(*endpoint.stream);
  struct Closing {
    UcxTransport* self;
    EndpointId id;
  };
  auto closing = std::make_unique<Closing>(Closing{this, id});
  ucp_request_param_t param = {};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  param.user_data = closing.get();
  param.cb.send = [](void* request, ucs_status_t, void* data) {
    const std::unique_ptr<Closing> c(static_cast<Closing*>(data));
    ucp_request_free(request);
    c->self->events_.push_back([self = c->self, id = c->id] { self->OnHandleClosed(id); });
  };
  const ucs_status_ptr_t request = ucp_ep_close_nbx(endpoint.handle, &param);
  if (UCS_PTR_IS_PTR(request)) {
    closing.release();
  } else {
    events_.push_back([this, id] { OnHandleClosed(id); });
  }
}

void UcxTransport::OnHandleClosed(EndpointId id) {
  const auto it = endpoints_.find(id.value);
  if (it == endpoints_.end()) return;
  Endpoint& endpoint = *it->second;
  endpoint.handle_closed = true;
  const absl::Status cancelled = absl::CancelledError("the endpoint was closed");
  outbox_.Abandon(id, cancelled);
  for (auto& [flush, done] : std::exchange(endpoint.flushes, {})) Later(std::move(done), cancelled);
  for (auto& [put, done] : std::exchange(endpoint.device_puts, {}))
    Later(std::move(done), cancelled);
  for (auto& [ask, done] : std::exchange(endpoint.device_asks, {}))
    Later(std::move(done), cancelled);
  FinishClose(id);
}

void UcxTransport::FinishClose(EndpointId id) {
  const auto it = endpoints_.find(id.value);
  if (it == endpoints_.end() || !it->second->handle_closed) return;
  if (it->second->stream != nullptr && it->second->stream->puts_arriving > 0) return;
  const std::unique_ptr<Endpoint> endpoint = std::move(it->second);
  endpoints_.erase(it);
  for (Task& closed : endpoint->closed) events_.push_back(std::move(closed));
}

// Those that waited for the last fetch into their peer's pages.
void UcxTransport::FinishCloses() {
  std::vector<EndpointId> closing;
  for (const auto& [id, endpoint] : endpoints_)
    if (endpoint->closing) closing.push_back(EndpointId{id});
  for (EndpointId id : closing) FinishClose(id);
}

absl::StatusOr<RemoteKeyId> UcxTransport::ImportKey(EndpointId id, absl::string_view packed) {
  Endpoint* endpoint = Find(id);
  if (endpoint == nullptr) return absl::UnavailableError("transport: the endpoint is closed");
  BALEEN_ASSIGN_OR_RETURN(const Sealed key, Unseal("key", packed));
  const RemoteKeyId key_id{next_id_++};
  endpoint->keys[key_id.value] = key.number;
  return key_id;
}

std::string UcxTransport::WireName(EndpointId id) {
  const Endpoint* endpoint = Find(id);
  return endpoint == nullptr ? "" : absl::StrJoin(Wires(endpoint->handle), "+");
}

std::string UcxTransport::DeviceWayName(EndpointId id) {
  const Endpoint* endpoint = Find(id);
  return endpoint == nullptr ? "" : device_.name(endpoint->device_way);
}

UcxTransport::Endpoint* UcxTransport::Find(EndpointId id) {
  const auto it = endpoints_.find(id.value);
  return it == endpoints_.end() || it->second->closing ? nullptr : it->second.get();
}

// ---- going out ---------------------------------------------------------------------------------

void UcxTransport::SendActive(EndpointId id, UcxActive active, Done done) {
  Endpoint* endpoint = Find(id);
  if (endpoint == nullptr || endpoint->failed)
    return Later(std::move(done), absl::UnavailableError("transport: the endpoint is closed"));
  outbox_.Send(id, endpoint->handle, std::move(active), std::move(done));
}

void UcxTransport::AgreeOnDeviceWay(EndpointId id, Done done) {
  Endpoint* endpoint = Find(id);
  if (endpoint == nullptr)
    return Later(std::move(done), absl::UnavailableError("transport: the endpoint is closed"));
  const UcxDevice::Region* region = device_.Any();
  if (region == nullptr)
    return Later(std::move(done), absl::UnimplementedError("transport: no region of a device"));
  // Over shared memory UCX does not end a fetch from a process that died.
  const DeviceAskHeader header = {
      .prefix = {process_, id.value, 0},
      .ask = next_id_++,
      .by_ucx = device_.by_ucx() && !UsesSharedMemory(endpoint->handle)};
  endpoint->device_asks[header.ask] = std::move(done);
  SendActive(
      id, {kDeviceAskId, ToBytes(header), std::as_bytes(std::span<const char>(region->exported))},
      {});
}

void UcxTransport::Put(EndpointId id, std::span<const Piece> pieces, RemoteKeyId key, Done done) {
  BALEEN_CHECK(!pieces.empty());
  Endpoint* endpoint = Find(id);
  if (endpoint == nullptr || endpoint->keys.count(key.value) == 0)
    return Later(std::move(done), absl::UnavailableError("transport: the endpoint is closed"));
  const uint64_t region = endpoint->keys[key.value];
  const UcxDevice::Region* const from = device_.Find(pieces[0].local.data());
  if (from == nullptr) return PutByUcx(*endpoint, nullptr, pieces, region, std::move(done));
  switch (endpoint->device_way) {
    case DeviceWay::kNone:
      return Later(std::move(done), absl::FailedPreconditionError(
                                        "transport: no way of device memory was agreed on"));
    case DeviceWay::kPeerMemory:
      return PutByPeerMemory(*endpoint, *from, pieces, region, std::move(done));
    case DeviceWay::kUcx:
      return PutByUcx(*endpoint, from, pieces, region, std::move(done));
  }
}

// One put a piece; `from`: the region of the device that they lie in, nullptr: host memory.
void UcxTransport::PutByUcx(Endpoint& endpoint, const UcxDevice::Region* from,
                            std::span<const Piece> pieces, uint64_t region, Done done) {
  const Done piece_done = DoneAfter(pieces.size(), std::move(done));
  for (const Piece& piece : pieces) {
    if (from != nullptr && !from->Holds(piece.local)) {
      Later(piece_done, absl::OutOfRangeError("transport: a piece is not inside its region"));
      continue;
    }
    const PutHeader header = {.prefix = {process_, endpoint.id.value, endpoint.puts++},
                              .region = region,
                              .address = piece.remote_address,
                              .kind = from == nullptr ? MemoryKind::kHost : MemoryKind::kDevice};
    const bool on_device = from != nullptr && !piece.local.empty();
    SendActive(endpoint.id,
               {.message = kPutId,
                .header = ToBytes(header),
                .payload = piece.local,
                .device = on_device ? from->memory.get() : nullptr},
               piece_done);
  }
}

void UcxTransport::PutByPeerMemory(Endpoint& endpoint, const UcxDevice::Region& from,
                                   std::span<const Piece> pieces, uint64_t region, Done done) {
  const size_t puts = (pieces.size() + kMostDevicePieces - 1) / kMostDevicePieces;
  const Done put_done = DoneAfter(puts, std::move(done));
  for (; !pieces.empty(); pieces = pieces.subspan(std::min(pieces.size(), kMostDevicePieces))) {
    const auto these = pieces.first(std::min(pieces.size(), kMostDevicePieces));
    const DevicePutHeader header = {.prefix = {process_, endpoint.id.value, endpoint.puts++},
                                    .region = region,
                                    .exported_bytes = from.exported.size()};
    Buffer payload = buffers_->Get(from.exported.size() + these.size() * sizeof(DevicePiece));
    std::memcpy(payload.data(), from.exported.data(), from.exported.size());
    std::byte* to = payload.data() + from.exported.size();
    for (const Piece& piece : these) {
      const DevicePiece wire = {.address = piece.remote_address,
                                .offset = uint64_t(piece.local.data() - from.base),
                                .bytes = piece.local.size()};
      std::memcpy(to, &wire, sizeof(wire));
      to += sizeof(wire);
    }
    endpoint.device_puts[header.prefix.sequence] = put_done;
    const std::span<const std::byte> bytes = payload;
    SendActive(endpoint.id, {kDevicePutId, ToBytes(header), bytes, std::move(payload)}, {});
  }
}

void UcxTransport::Flush(EndpointId id, Done done) {
  Endpoint* endpoint = Find(id);
  if (endpoint == nullptr)
    return Later(std::move(done), absl::UnavailableError("transport: the endpoint is closed"));
  const FlushHeader header = {
      .prefix = {process_, id.value, 0}, .flush = next_id_++, .puts = endpoint->puts};
  endpoint->flushes[header.flush] = std::move(done);
  SendActive(id, {kFlushId, ToBytes(header)}, {});
}

void UcxTransport::Send(EndpointId id, std::span<const std::byte> header,
                        std::span<const std::span<const std::byte>> payload, Done done) {
  BALEEN_CHECK(header.size() <= kMaxHeaderBytes);
  Endpoint* endpoint = Find(id);
  const Prefix prefix = {process_, id.value, endpoint == nullptr ? 0 : endpoint->sent++};
  Bytes whole_header = ToBytes(prefix);
  whole_header.insert(whole_header.end(), header.begin(), header.end());
  Buffer gathered;
  std::span<const std::byte> whole = payload.empty() ? std::span<const std::byte>() : payload[0];
  if (payload.size() > 1) {
    size_t bytes = 0;
    for (const auto& piece : payload) bytes += piece.size();
    gathered = buffers_->Get(bytes);
    std::byte* to = gathered.data();
    for (const auto& piece : payload) to = std::copy(piece.begin(), piece.end(), to);
    whole = gathered;
  }
  SendActive(id, {kMessageId, std::move(whole_header), whole, std::move(gathered)},
             std::move(done));
}

// ---- answers of the peer ------------------------------------------------------------------------

void UcxTransport::Answer(uint64_t process, unsigned message, Bytes header,
                          const std::string& text) {
  const auto it = by_process_.find(process);
  if (it == by_process_.end()) return;
  Buffer payload = buffers_->Get(text.size());
  std::copy_n(reinterpret_cast<const std::byte*>(text.data()), text.size(), payload.data());
  const std::span<const std::byte> bytes = payload;
  SendActive(it->second, {message, std::move(header), bytes, std::move(payload)}, {});
}

void UcxTransport::OnFlushReply(const void* header, size_t header_bytes) {
  FlushHeader reply = {};
  if (!FromBytes(header, header_bytes, &reply)) return;
  const auto it = endpoints_.find(reply.prefix.endpoint);  // of ours, as we told
  if (it == endpoints_.end()) return;
  const absl::Status status =
      FromUcs(ucs_status_t(-int(reply.code)), "a put was refused by its target");
  auto& puts = it->second->device_puts;
  for (auto put = puts.begin(); put != puts.end() && put->first < reply.puts; put = puts.erase(put))
    Later(std::move(put->second), status);
  if (auto flush = it->second->flushes.extract(reply.flush); !flush.empty())
    Later(std::move(flush.mapped()), status);
}

void UcxTransport::OnDeviceAnswer(const void* header, size_t header_bytes, absl::string_view text) {
  DeviceAnswerHeader answer = {};
  if (!FromBytes(header, header_bytes, &answer)) return;
  const auto it = endpoints_.find(answer.prefix.endpoint);
  if (it == endpoints_.end()) return;
  auto ask = it->second->device_asks.extract(answer.ask);
  if (ask.empty()) return;
  absl::Status status = answer.way == DeviceWay::kUcx ? device_.UseUcx() : absl::OkStatus();
  if (answer.way == DeviceWay::kNone) status = absl::FailedPreconditionError(text);
  if (status.ok()) it->second->device_way = answer.way;
  Later(std::move(ask.mapped()), std::move(status));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> CreateUcxTransport(const UcxOptions& options) {
  RemoveUcxSignalHandlers();
  if (options.peer_memory != nullptr) options.peer_memory->MakeCurrent();
  BALEEN_ASSIGN_OR_RETURN(UcpContext context, CreateUcpContext(options));
  BALEEN_ASSIGN_OR_RETURN(
      UcpWorker worker,
      CreateUcpWorker(context.get(), Transport::kMaxHeaderBytes + sizeof(Prefix)));
  int event_fd = -1;
  BALEEN_RETURN_IF_ERROR(
      FromUcs(ucp_worker_get_efd(worker.get(), &event_fd), "ucp_worker_get_efd"));
  auto transport =
      std::make_unique<UcxTransport>(std::move(context), std::move(worker), event_fd, options);
  absl::Status started;
  RunOn(*transport, [&] { started = transport->Start(); });
  BALEEN_RETURN_IF_ERROR(started);
  return transport;
}

}  // namespace baleen::kv_transfer
