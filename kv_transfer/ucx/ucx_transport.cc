#include "kv_transfer/ucx/ucx_transport.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "common/check.h"
#include "common/ids.h"
#include "common/status_macros.h"
#include "kv_transfer/messages.h"
#include "kv_transfer/progress_thread.h"
#include "kv_transfer/ucx/handle.h"
#include "kv_transfer/ucx/ucx_transport_inbox.h"
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
  absl::StatusOr<RemoteKeyId> ImportKey(EndpointId endpoint, absl::string_view packed) override;
  void Put(EndpointId endpoint, std::span<const Piece> pieces, RemoteKeyId key, Done done) override;
  void Flush(EndpointId endpoint, Done done) override;
  void Send(EndpointId endpoint, std::span<const std::byte> header,
            std::span<const std::span<const std::byte>> payload, Done done) override;

  void SetReceiver(Receiver receiver) override { receiver_ = std::move(receiver); }
  void SetFailureObserver(FailureObserver observer) override { observer_ = std::move(observer); }
  std::string WireName(EndpointId endpoint) override;
  Fence FenceOf(EndpointId) override { return Fence::kOwnClose; }

 private:
  struct Operation {  // one active message on its way out
    UcxTransport* transport;
    EndpointId endpoint;
    Done done;
    Bytes header;         // kept until UCX has sent it
    Buffer gathered;      // the payload, when it came in pieces
    bool orphan = false;  // its endpoint is closed and `done` was called
  };
  struct Endpoint {
    UcxTransport* transport;
    EndpointId id;
    uint64_t process = 0;  // of the peer
    ucp_ep_h handle = nullptr;
    bool failed = false;
    bool closing = false;
    bool handle_closed = false;
    uint32_t sent = 0, puts = 0;
    std::map<uint64_t, uint64_t> keys;  // -> region of the peer
    std::set<Operation*> pending;
    std::map<uint64_t, Done> flushes;
    std::map<uint32_t, Done> device_puts;      // not answered
    std::shared_ptr<UcxInbox::Stream> stream;  // the peer's endpoint that is bound to this one
    std::vector<Task> closed;
  };

  struct DeviceRegion {
    const std::byte* base;
    size_t bytes;
    std::string exported;
  };

  bool Poll();
  bool Arm();
  Endpoint* Find(EndpointId id);
  void Later(Done done, absl::Status status);
  const DeviceRegion* DeviceRegionOf(const std::byte* local) const;
  void PutFromDevice(Endpoint& endpoint, const DeviceRegion& from, std::span<const Piece> pieces,
                     uint64_t region, Done done);
  void SendActive(EndpointId id, unsigned message, Bytes header, std::span<const std::byte> payload,
                  Buffer gathered, Done done);
  void Complete(Operation* operation, ucs_status_t status);
  void OnHandleClosed(EndpointId id);
  void FinishClose(EndpointId id);

  bool Bind(uint64_t process, const std::shared_ptr<UcxInbox::Stream>& stream);
  void AnswerFlush(uint64_t process, const FlushHeader& reply);
  void FinishCloses();
  ucs_status_t OnFlushReply(const void* header, size_t header_bytes);

  const uint64_t process_ = RandomId();
  UcpContext context_;
  UcpWorker worker_;
  std::string address_;
  PeerMemory* const peer_memory_;
  const std::shared_ptr<BufferPool> buffers_;
  std::map<uint64_t, DeviceRegion> device_regions_;
  Receiver receiver_;
  FailureObserver observer_;
  std::map<uint64_t, std::unique_ptr<Endpoint>> endpoints_;
  std::map<uint64_t, EndpointId> by_process_;  // the open endpoint to a process
  std::set<Operation*> orphans_;
  int64_t operations_ = 0;  // given to UCX and not completed, orphans excepted
  // What UCX told us in its callbacks, handled after ucp_worker_progress returned: our callbacks
  // may then call anything.
  std::vector<Task> events_;
  UcxInbox inbox_;
  uint64_t next_id_ = 1;
  std::unique_ptr<ProgressThread> thread_;  // last
};

UcxTransport::UcxTransport(UcpContext context, UcpWorker worker, int event_fd,
                           const UcxOptions& options)
    : context_(std::move(context)),
      worker_(std::move(worker)),
      peer_memory_(options.peer_memory),
      buffers_(BufferPool::Create(options.keep_buffer_bytes)),
      inbox_(process_, buffers_, &events_, options.peer_memory,
             {.deliver =
                  [this](std::span<const std::byte> header, Buffer payload) {
                    if (receiver_) receiver_(header, std::move(payload));
                  },
              .bind =
                  [this](uint64_t process, const std::shared_ptr<UcxInbox::Stream>& stream) {
                    return Bind(process, stream);
                  },
              .answer = [this](uint64_t process,
                               const FlushHeader& reply) { AnswerFlush(process, reply); },
              .puts_ended = [this] { FinishCloses(); }}),
      thread_(std::make_unique<ProgressThread>(
          "kv_transfer",
          ProgressThread::Poller{
              .poll = [this] { return Poll(); },
              .arm = [this] { return Arm(); },
              .fd = event_fd,
              .waiting = [this] { return operations_ > 0 || inbox_.fetching(); }},
          options.spin)) {}

absl::Status UcxTransport::Start() {
  BALEEN_RETURN_IF_ERROR(inbox_.Start(worker_.get()));
  ucp_am_handler_param_t param = {};
  param.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                     UCP_AM_HANDLER_PARAM_FIELD_ARG;
  param.id = kFlushReplyId;
  param.cb = [](void* self, const void* header, size_t header_bytes, void*, size_t,
                const ucp_am_recv_param_t*) {
    return static_cast<UcxTransport*>(self)->OnFlushReply(header, header_bytes);
  };
  param.arg = this;
  BALEEN_RETURN_IF_ERROR(FromUcs(ucp_worker_set_am_recv_handler(worker_.get(), &param),
                                 "ucp_worker_set_am_recv_handler"));
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
  for (Operation* operation : orphans_) delete operation;
  for (const auto& [id, endpoint] : endpoints_)
    for (Operation* operation : endpoint->pending) delete operation;
}

// ---- progress ----------------------------------------------------------------------------------

bool UcxTransport::Poll() {
  bool worked = false;
  for (int i = 0; i < kProgressBurst && ucp_worker_progress(worker_.get()) > 0; ++i) worked = true;
  worked |= inbox_.PollCopies();
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

void UcxTransport::Later(Done done, absl::Status status) {
  if (!done) return;
  events_.push_back([done = std::move(done), status = std::move(status)] { done(status); });
}

// ---- regions and endpoints ---------------------------------------------------------------------

absl::StatusOr<RegionId> UcxTransport::RegisterRegion(MemoryKind kind, void* base, size_t bytes) {
  const RegionId id{next_id_++};
  auto* const begin = static_cast<std::byte*>(base);
  if (kind == MemoryKind::kDevice) {
    if (peer_memory_ == nullptr)
      return absl::UnimplementedError("transport: made without memory of a device");
    BALEEN_ASSIGN_OR_RETURN(std::string exported, peer_memory_->Export(begin, bytes));
    device_regions_[id.value] = {begin, bytes, std::move(exported)};
  }
  inbox_.AddRegion(id.value, {kind, begin, bytes});
  return id;
}

void UcxTransport::DeregisterRegion(RegionId region) {
  inbox_.RemoveRegion(region.value);
  device_regions_.erase(region.value);
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
  inbox_.BindDelivering(peer.number);  // opened in answer to it
  return id;
}

bool UcxTransport::Bind(uint64_t process, const std::shared_ptr<UcxInbox::Stream>& stream) {
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
  for (Operation* operation : std::exchange(endpoint.pending, {})) {
    operation->orphan = true;
    orphans_.insert(operation);
    --operations_;
    Later(std::move(operation->done), cancelled);
  }
  for (auto& [flush, done] : std::exchange(endpoint.flushes, {})) Later(std::move(done), cancelled);
  for (auto& [put, done] : std::exchange(endpoint.device_puts, {}))
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
  if (endpoint == nullptr) return "";
  std::vector<std::string> wires = Wires(endpoint->handle);
  if (!device_regions_.empty()) wires.push_back(peer_memory_->name());
  return absl::StrJoin(wires, "+");
}

UcxTransport::Endpoint* UcxTransport::Find(EndpointId id) {
  const auto it = endpoints_.find(id.value);
  return it == endpoints_.end() || it->second->closing ? nullptr : it->second.get();
}

// ---- going out ---------------------------------------------------------------------------------

void UcxTransport::SendActive(EndpointId id, unsigned message, Bytes header,
                              std::span<const std::byte> payload, Buffer gathered, Done done) {
  Endpoint* endpoint = Find(id);
  if (endpoint == nullptr || endpoint->failed)
    return Later(std::move(done), absl::UnavailableError("transport: the endpoint is closed"));
  auto* operation =
      new Operation{this, id, std::move(done), std::move(header), std::move(gathered)};
  endpoint->pending.insert(operation);
  ++operations_;
  ucp_request_param_t param = {};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.user_data = operation;
  if (message == kDevicePutId) {  // whose receiver takes no rendezvous
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = UCP_AM_SEND_FLAG_EAGER;
  }
  param.cb.send = [](void* request, ucs_status_t status, void* data) {
    ucp_request_free(request);
    auto* sent = static_cast<Operation*>(data);
    sent->transport->Complete(sent, status);
  };
  const ucs_status_ptr_t request =
      ucp_am_send_nbx(endpoint->handle, message, operation->header.data(), operation->header.size(),
                      payload.data(), payload.size(), &param);
  if (!UCS_PTR_IS_PTR(request)) Complete(operation, UCS_PTR_STATUS(request));
}

void UcxTransport::Complete(Operation* operation, ucs_status_t status) {
  const std::unique_ptr<Operation> owned(operation);
  if (owned->orphan) {
    orphans_.erase(operation);
    return;
  }
  const auto it = endpoints_.find(owned->endpoint.value);
  BALEEN_CHECK(it != endpoints_.end());
  it->second->pending.erase(operation);
  --operations_;
  Later(std::move(owned->done), FromUcs(status, "wire"));
}

void UcxTransport::Put(EndpointId id, std::span<const Piece> pieces, RemoteKeyId key, Done done) {
  BALEEN_CHECK(!pieces.empty());
  Endpoint* endpoint = Find(id);
  if (endpoint == nullptr || endpoint->keys.count(key.value) == 0)
    return Later(std::move(done), absl::UnavailableError("transport: the endpoint is closed"));
  const uint64_t region = endpoint->keys[key.value];
  if (const DeviceRegion* from = DeviceRegionOf(pieces[0].local.data()))
    return PutFromDevice(*endpoint, *from, pieces, region, std::move(done));
  const Done piece_done = DoneAfter(pieces.size(), std::move(done));
  for (const Piece& piece : pieces) {
    const PutHeader header = {.prefix = {process_, uint32_t(id.value), endpoint->puts++},
                              .region = region,
                              .address = piece.remote_address};
    SendActive(id, kPutId, ToBytes(header), piece.local, {}, piece_done);
  }
}

const UcxTransport::DeviceRegion* UcxTransport::DeviceRegionOf(const std::byte* local) const {
  for (const auto& [id, region] : device_regions_)
    if (local >= region.base && local < region.base + region.bytes) return &region;
  return nullptr;
}

void UcxTransport::PutFromDevice(Endpoint& endpoint, const DeviceRegion& from,
                                 std::span<const Piece> pieces, uint64_t region, Done done) {
  const size_t puts = (pieces.size() + kMostDevicePieces - 1) / kMostDevicePieces;
  const Done put_done = DoneAfter(puts, std::move(done));
  for (; !pieces.empty(); pieces = pieces.subspan(std::min(pieces.size(), kMostDevicePieces))) {
    const auto these = pieces.first(std::min(pieces.size(), kMostDevicePieces));
    const DevicePutHeader header = {
        .prefix = {process_, uint32_t(endpoint.id.value), endpoint.puts++},
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
    SendActive(endpoint.id, kDevicePutId, ToBytes(header), bytes, std::move(payload), {});
  }
}

void UcxTransport::Flush(EndpointId id, Done done) {
  Endpoint* endpoint = Find(id);
  if (endpoint == nullptr)
    return Later(std::move(done), absl::UnavailableError("transport: the endpoint is closed"));
  const FlushHeader header = {
      .prefix = {process_, uint32_t(id.value), 0}, .flush = next_id_++, .puts = endpoint->puts};
  endpoint->flushes[header.flush] = std::move(done);
  SendActive(id, kFlushId, ToBytes(header), {}, {}, {});
}

void UcxTransport::Send(EndpointId id, std::span<const std::byte> header,
                        std::span<const std::span<const std::byte>> payload, Done done) {
  BALEEN_CHECK(header.size() <= kMaxHeaderBytes);
  Endpoint* endpoint = Find(id);
  const Prefix prefix = {process_, uint32_t(id.value), endpoint == nullptr ? 0 : endpoint->sent++};
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
  SendActive(id, kMessageId, std::move(whole_header), whole, std::move(gathered), std::move(done));
}

// ---- answers of the peer ------------------------------------------------------------------------

void UcxTransport::AnswerFlush(uint64_t process, const FlushHeader& reply) {
  if (const auto it = by_process_.find(process); it != by_process_.end())
    SendActive(it->second, kFlushReplyId, ToBytes(reply), {}, {}, {});
}

ucs_status_t UcxTransport::OnFlushReply(const void* header, size_t header_bytes) {
  FlushHeader reply = {};
  if (!FromBytes(header, header_bytes, &reply)) return UCS_OK;
  const auto it = endpoints_.find(reply.prefix.endpoint);  // of ours, as we told
  if (it == endpoints_.end()) return UCS_OK;
  const absl::Status status =
      FromUcs(ucs_status_t(-int(reply.code)), "a put was refused by its target");
  auto& puts = it->second->device_puts;
  for (auto put = puts.begin(); put != puts.end() && put->first < reply.puts; put = puts.erase(put))
    Later(std::move(put->second), status);
  if (auto flush = it->second->flushes.extract(reply.flush); !flush.empty())
    Later(std::move(flush.mapped()), status);
  return UCS_OK;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> CreateUcxTransport(const UcxOptions& options) {
  RemoveUcxSignalHandlers();
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
