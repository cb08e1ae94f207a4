#include "kv_transfer/ucx/ucx_transport.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/check.h"
#include "common/ids.h"
#include "common/status_macros.h"
#include "kv_transfer/messages.h"
#include "kv_transfer/progress_thread.h"
#include "kv_transfer/ucx/handle.h"
#include "kv_transfer/ucx/setup.h"
#include "spdlog/spdlog.h"

namespace baleen::kv_transfer {
namespace {

constexpr Duration kCloseTime = std::chrono::seconds(1);
constexpr int kProgressBurst = 16;

// Active message ids.
enum : unsigned { kMessageId = 0, kPutId = 1, kFlushId = 2, kFlushReplyId = 3 };

// Begins every header: who sent it over which of its endpoints.
struct Prefix {
  uint64_t process;
  uint32_t endpoint;
  uint32_t sequence;  // of kMessageId and kPutId, each counted from 0 within the endpoint
};
struct PutHeader {
  Prefix prefix;
  uint64_t region;
  uint64_t address;
};
struct FlushHeader {  // also of the reply
  Prefix prefix;
  uint64_t flush;
  uint32_t puts;  // answer once this many puts are carried out
  uint32_t code;  // reply: ucs_status_t of the first put that could not be, negated
};

uint64_t Checksum(absl::string_view bytes) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (char c : bytes) hash = (hash ^ uint8_t(c)) * 0x100000001b3;
  return hash;
}

template <typename T>
absl::string_view AsBytes(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}

// UCX trusts addresses blindly, so what crosses the wire carries a tag, a checksum and a number.
std::string Seal(absl::string_view tag, uint64_t number, absl::string_view bytes) {
  const std::string body = absl::StrCat(AsBytes(number), bytes);
  return absl::StrCat(tag, AsBytes(Checksum(body)), body);
}

struct Unsealed {
  uint64_t number = 0;
  std::string bytes;
};
absl::StatusOr<Unsealed> Unseal(absl::string_view tag, absl::string_view sealed) {
  uint64_t sum = 0;
  if (absl::StartsWith(sealed, tag) && sealed.size() >= tag.size() + 16) {
    std::memcpy(&sum, sealed.data() + tag.size(), 8);
    const absl::string_view body = sealed.substr(tag.size() + 8);
    Unsealed result;
    std::memcpy(&result.number, body.data(), 8);
    result.bytes = std::string(body.substr(8));
    if (Checksum(body) == sum) return result;
  }
  return absl::InvalidArgumentError(absl::StrCat("not a UCX ", tag));
}

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
  void DeregisterRegion(RegionId region) override { regions_.erase(region.value); }
  absl::StatusOr<std::string> PackRemoteKey(RegionId region) override;

  absl::StatusOr<EndpointId> Open(absl::string_view address) override;
  void Close(EndpointId endpoint, Task closed) override;
  absl::StatusOr<RemoteKeyId> ImportKey(EndpointId endpoint, absl::string_view packed) override;
  void Put(EndpointId endpoint, std::span<const std::byte> local, uint64_t remote_address,
           RemoteKeyId key, Done done) override;
  void Flush(EndpointId endpoint, Done done) override;
  void Send(EndpointId endpoint, std::span<const std::byte> header,
            std::span<const std::span<const std::byte>> payload, Done done) override;

  void SetReceiver(Receiver receiver) override { receiver_ = std::move(receiver); }
  void SetFailureObserver(FailureObserver observer) override { observer_ = std::move(observer); }
  std::string WireName(EndpointId endpoint) override;
  Fence FenceOf(EndpointId) override { return Fence::kOwnClose; }

 private:
  struct Region {
    std::byte* base;
    size_t bytes;
  };
  struct Operation {  // one active message on its way out
    UcxTransport* transport;
    EndpointId endpoint;
    Done done;
    Bytes header;         // kept until UCX has sent it
    Buffer gathered;      // the payload, when it came in pieces
    bool orphan = false;  // its endpoint is closed and `done` was called
  };
  struct Incoming {
    Bytes header;
    Buffer payload;
    bool complete = false;
  };
  // What comes from one endpoint of a peer process. Messages are delivered in the order they were
  // sent.
  struct Stream {
    uint32_t endpoint = 0;
    uint32_t next = 0;  // message
    std::map<uint32_t, std::shared_ptr<Incoming>> waiting;
    // Puts: those before put_next are carried out, and those in put_done.
    uint32_t put_next = 0;
    std::set<uint32_t> put_done;
    int puts_arriving = 0;  // fetches into our regions under way
    ucs_status_t put_status = UCS_OK;
    std::vector<FlushHeader> flushes;  // not answered
    bool puts_dropped = false;         // our endpoint was closed
  };
  struct Arrival {  // one rendezvous on its way in
    UcxTransport* transport;
    uint64_t process;
    std::shared_ptr<Stream> stream;
    uint32_t sequence;
    std::shared_ptr<Incoming> message;  // nullptr: a put
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
    std::shared_ptr<Stream> fenced;  // set on Close
    std::vector<Task> closed;
  };

  bool Poll();
  bool Arm();
  Endpoint* Find(EndpointId id);
  void Later(Done done, absl::Status status);
  void SendActive(EndpointId id, unsigned message, Bytes header, std::span<const std::byte> payload,
                  Buffer gathered, Done done);
  void Complete(Operation* operation, ucs_status_t status);
  void OnHandleClosed(EndpointId id);
  void FinishClose(EndpointId id);

  std::shared_ptr<Stream> StreamOf(const Prefix& prefix);
  ucs_status_t OnMessage(const void* header, size_t header_bytes, void* data, size_t bytes,
                         bool rendezvous);
  ucs_status_t OnPut(const void* header, size_t header_bytes, void* data, size_t bytes,
                     bool rendezvous);
  ucs_status_t OnFlush(const void* header, size_t header_bytes);
  ucs_status_t OnFlushReply(const void* header, size_t header_bytes);
  void Fetch(std::unique_ptr<Arrival> arrival, void* data, std::byte* to, size_t bytes);
  void OnFetched(Arrival* arrival, ucs_status_t status);
  void DeliverReady(Stream& stream);
  void OnPutOver(uint64_t process, Stream& stream, uint32_t sequence, ucs_status_t status);
  void AnswerFlushes(uint64_t process, Stream& stream);

  const uint64_t process_ = RandomId();
  UcpContext context_;
  UcpWorker worker_;
  std::string address_;
  const std::shared_ptr<BufferPool> buffers_;
  Receiver receiver_;
  FailureObserver observer_;
  std::map<uint64_t, Region> regions_;
  std::map<uint64_t, std::unique_ptr<Endpoint>> endpoints_;
  std::map<uint64_t, EndpointId> by_process_;            // the open endpoint to a process
  std::map<uint64_t, std::shared_ptr<Stream>> streams_;  // by process
  std::set<Operation*> orphans_;
  int64_t operations_ = 0;  // given to UCX and not completed, orphans excepted
  std::set<Arrival*> arrivals_;
  // What UCX told us in its callbacks, handled after ucp_worker_progress returned: our callbacks
  // may then call anything.
  std::vector<Task> events_;
  uint64_t next_id_ = 1;
  std::unique_ptr<ProgressThread> thread_;  // last
};

UcxTransport::UcxTransport(UcpContext context, UcpWorker worker, int event_fd,
                           const UcxOptions& options)
    : context_(std::move(context)),
      worker_(std::move(worker)),
      buffers_(BufferPool::Create(options.keep_buffer_bytes)),
      thread_(std::make_unique<ProgressThread>(
          "kv_transfer",
          ProgressThread::Poller{.poll = [this] { return Poll(); },
                                 .arm = [this] { return Arm(); },
                                 .fd = event_fd,
                                 .waiting = [this] { return operations_ > 0; }},
          options.spin)) {}

absl::Status UcxTransport::Start() {
  const auto handle = [this](unsigned id, ucp_am_recv_callback_t callback) {
    ucp_am_handler_param_t param = {};
    param.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                       UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    param.id = id;
    param.flags = UCP_AM_FLAG_WHOLE_MSG;
    param.cb = callback;
    param.arg = this;
    return FromUcs(ucp_worker_set_am_recv_handler(worker_.get(), &param),
                   "ucp_worker_set_am_recv_handler");
  };
  BALEEN_RETURN_IF_ERROR(
      handle(kMessageId, [](void* self, const void* header, size_t header_bytes, void* data,
                            size_t bytes, const ucp_am_recv_param_t* param) {
        return static_cast<UcxTransport*>(self)->OnMessage(
            header, header_bytes, data, bytes, param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV);
      }));
  BALEEN_RETURN_IF_ERROR(
      handle(kPutId, [](void* self, const void* header, size_t header_bytes, void* data,
                        size_t bytes, const ucp_am_recv_param_t* param) {
        return static_cast<UcxTransport*>(self)->OnPut(
            header, header_bytes, data, bytes, param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV);
      }));
  BALEEN_RETURN_IF_ERROR(handle(kFlushId, [](void* self, const void* header, size_t header_bytes,
                                             void*, size_t, const ucp_am_recv_param_t*) {
    return static_cast<UcxTransport*>(self)->OnFlush(header, header_bytes);
  }));
  BALEEN_RETURN_IF_ERROR(
      handle(kFlushReplyId, [](void* self, const void* header, size_t header_bytes, void*, size_t,
                               const ucp_am_recv_param_t*) {
        return static_cast<UcxTransport*>(self)->OnFlushReply(header, header_bytes);
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
  for (Operation* operation : orphans_) delete operation;
  for (Arrival* arrival : arrivals_) delete arrival;
  for (const auto& [id, endpoint] : endpoints_)
    for (Operation* operation : endpoint->pending) delete operation;
}

// ---- progress ----------------------------------------------------------------------------------

bool UcxTransport::Poll() {
  bool worked = false;
  for (int i = 0; i < kProgressBurst && ucp_worker_progress(worker_.get()) > 0; ++i) worked = true;
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
  if (kind != MemoryKind::kHost)
    return absl::UnimplementedError("transport: this build registers host memory only");
  const RegionId id{next_id_++};
  regions_[id.value] = {static_cast<std::byte*>(base), bytes};
  return id;
}

absl::StatusOr<std::string> UcxTransport::PackRemoteKey(RegionId region) {
  if (regions_.count(region.value) == 0) return absl::NotFoundError("transport: no such region");
  return Seal("key", region.value, "");
}

absl::StatusOr<EndpointId> UcxTransport::Open(absl::string_view address) {
  BALEEN_ASSIGN_OR_RETURN(const Unsealed peer, Unseal("address", address));
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
  if (const auto stream = streams_.find(endpoint.process); stream != streams_.end()) {
    endpoint.fenced = stream->second;
    endpoint.fenced->puts_dropped = true;
  }
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
  FinishClose(id);
}

void UcxTransport::FinishClose(EndpointId id) {
  const auto it = endpoints_.find(id.value);
  if (it == endpoints_.end() || !it->second->handle_closed) return;
  if (it->second->fenced != nullptr && it->second->fenced->puts_arriving > 0) return;
  const std::unique_ptr<Endpoint> endpoint = std::move(it->second);
  endpoints_.erase(it);
  for (Task& closed : endpoint->closed) events_.push_back(std::move(closed));
}

absl::StatusOr<RemoteKeyId> UcxTransport::ImportKey(EndpointId id, absl::string_view packed) {
  Endpoint* endpoint = Find(id);
  if (endpoint == nullptr) return absl::UnavailableError("transport: the endpoint is closed");
  BALEEN_ASSIGN_OR_RETURN(const Unsealed key, Unseal("key", packed));
  const RemoteKeyId key_id{next_id_++};
  endpoint->keys[key_id.value] = key.number;
  return key_id;
}

std::string UcxTransport::WireName(EndpointId id) {
  const Endpoint* endpoint = Find(id);
  return endpoint == nullptr ? "" : absl::StrJoin(Wires(endpoint->handle), "+");
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
  ucp_request_param_t param = {};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.user_data = operation;
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

template <typename Header>
Bytes ToBytes(const Header& header) {
  const auto* begin = reinterpret_cast<const std::byte*>(&header);
  return Bytes(begin, begin + sizeof(header));
}

void UcxTransport::Put(EndpointId id, std::span<const std::byte> local, uint64_t remote_address,
                       RemoteKeyId key, Done done) {
  Endpoint* endpoint = Find(id);
  if (endpoint == nullptr || endpoint->keys.count(key.value) == 0)
    return Later(std::move(done), absl::UnavailableError("transport: the endpoint is closed"));
  const PutHeader header = {.prefix = {process_, uint32_t(id.value), endpoint->puts++},
                            .region = endpoint->keys[key.value],
                            .address = remote_address};
  SendActive(id, kPutId, ToBytes(header), local, {}, std::move(done));
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

// ---- coming in ---------------------------------------------------------------------------------

// The stream of that endpoint; nullptr for an endpoint its process has since replaced.
std::shared_ptr<UcxTransport::Stream> UcxTransport::StreamOf(const Prefix& prefix) {
  std::shared_ptr<Stream>& stream = streams_[prefix.process];
  if (stream != nullptr && prefix.endpoint < stream->endpoint) return nullptr;
  if (stream == nullptr || prefix.endpoint > stream->endpoint) {
    stream = std::make_shared<Stream>();
    stream->endpoint = prefix.endpoint;
  }
  return stream;
}

ucs_status_t UcxTransport::OnMessage(const void* header, size_t header_bytes, void* data,
                                     size_t bytes, bool rendezvous) {
  Prefix prefix = {};
  if (header_bytes < sizeof(prefix)) return UCS_OK;
  std::memcpy(&prefix, header, sizeof(prefix));
  const std::shared_ptr<Stream> stream = StreamOf(prefix);
  if (stream == nullptr || prefix.sequence < stream->next) return UCS_OK;
  auto incoming = std::make_shared<Incoming>();
  const auto* begin = static_cast<const std::byte*>(header);
  incoming->header.assign(begin + sizeof(prefix), begin + header_bytes);
  incoming->payload = buffers_->Get(bytes);
  stream->waiting[prefix.sequence] = incoming;
  if (rendezvous) {
    std::byte* const to = incoming->payload.data();
    Fetch(std::make_unique<Arrival>(
              Arrival{this, prefix.process, stream, prefix.sequence, std::move(incoming)}),
          data, to, bytes);
    return UCS_OK;
  }
  if (bytes > 0) std::memcpy(incoming->payload.data(), data, bytes);
  incoming->complete = true;
  DeliverReady(*stream);
  return UCS_OK;
}

void UcxTransport::DeliverReady(Stream& stream) {
  for (auto it = stream.waiting.begin();
       it != stream.waiting.end() && it->first == stream.next && it->second->complete;
       it = stream.waiting.erase(it), ++stream.next)
    events_.push_back([this, incoming = it->second] {
      if (receiver_) receiver_(incoming->header, std::move(incoming->payload));
    });
}

ucs_status_t UcxTransport::OnPut(const void* header, size_t header_bytes, void* data, size_t bytes,
                                 bool rendezvous) {
  PutHeader put = {};
  if (header_bytes != sizeof(put)) return UCS_OK;
  std::memcpy(&put, header, sizeof(put));
  const std::shared_ptr<Stream> stream = StreamOf(put.prefix);
  const bool open = by_process_.count(put.prefix.process) > 0;
  // A rendezvous that is not fetched: on UCS_OK, UCX lets the peer's send complete.
  if (stream == nullptr || stream->puts_dropped || !open) return UCS_OK;
  const auto region = regions_.find(put.region);
  const auto base = region == regions_.end() ? 0 : reinterpret_cast<uint64_t>(region->second.base);
  const bool inside = region != regions_.end() && put.address >= base &&
                      put.address - base <= region->second.bytes &&
                      bytes <= region->second.bytes - (put.address - base);
  if (!inside) {
    OnPutOver(put.prefix.process, *stream, put.prefix.sequence, UCS_ERR_INVALID_ADDR);
    return UCS_OK;
  }
  std::byte* const to = region->second.base + (put.address - base);
  if (rendezvous) {
    ++stream->puts_arriving;
    Fetch(std::make_unique<Arrival>(
              Arrival{this, put.prefix.process, stream, put.prefix.sequence, nullptr}),
          data, to, bytes);
    return UCS_OK;
  }
  if (bytes > 0) std::memcpy(to, data, bytes);
  OnPutOver(put.prefix.process, *stream, put.prefix.sequence, UCS_OK);
  return UCS_OK;
}

// Fetches the data of a rendezvous to `to`.
void UcxTransport::Fetch(std::unique_ptr<Arrival> arrival, void* data, std::byte* to,
                         size_t bytes) {
  Arrival* raw = arrival.release();
  arrivals_.insert(raw);
  ucp_request_param_t param = {};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.user_data = raw;
  param.cb.recv_am = [](void* request, ucs_status_t status, size_t, void* user) {
    ucp_request_free(request);
    auto* over = static_cast<Arrival*>(user);
    over->transport->OnFetched(over, status);
  };
  const ucs_status_ptr_t request = ucp_am_recv_data_nbx(worker_.get(), data, to, bytes, &param);
  if (!UCS_PTR_IS_PTR(request)) OnFetched(raw, UCS_PTR_STATUS(request));
}

void UcxTransport::OnFetched(Arrival* arrival, ucs_status_t status) {
  const std::unique_ptr<Arrival> owned(arrival);
  arrivals_.erase(arrival);
  Stream& stream = *owned->stream;
  if (owned->message == nullptr) {
    --stream.puts_arriving;
    OnPutOver(owned->process, stream, owned->sequence, status);
    return;
  }
  if (status != UCS_OK) {  // a hole that nothing fills: the connection is over
    spdlog::warn("a message was cut off: {}", ucs_status_string(status));
    return;
  }
  owned->message->complete = true;
  DeliverReady(stream);
}

void UcxTransport::OnPutOver(uint64_t process, Stream& stream, uint32_t sequence,
                             ucs_status_t status) {
  if (status != UCS_OK && stream.put_status == UCS_OK) stream.put_status = status;
  stream.put_done.insert(sequence);
  while (stream.put_done.erase(stream.put_next) > 0) ++stream.put_next;
  if (!stream.puts_dropped) return AnswerFlushes(process, stream);
  if (stream.puts_arriving > 0) return;
  events_.push_back([this] {  // an endpoint may have waited for this to be closed
    std::vector<EndpointId> closing;
    for (const auto& [id, endpoint] : endpoints_)
      if (endpoint->closing) closing.push_back(EndpointId{id});
    for (EndpointId id : closing) FinishClose(id);
  });
}

ucs_status_t UcxTransport::OnFlush(const void* header, size_t header_bytes) {
  FlushHeader flush = {};
  if (header_bytes != sizeof(flush)) return UCS_OK;
  std::memcpy(&flush, header, sizeof(flush));
  const std::shared_ptr<Stream> stream = StreamOf(flush.prefix);
  if (stream == nullptr || stream->puts_dropped) return UCS_OK;
  stream->flushes.push_back(flush);
  AnswerFlushes(flush.prefix.process, *stream);
  return UCS_OK;
}

void UcxTransport::AnswerFlushes(uint64_t process, Stream& stream) {
  std::erase_if(stream.flushes, [&](const FlushHeader& flush) {
    if (flush.puts > stream.put_next) return false;
    const FlushHeader reply = {.prefix = {process_, flush.prefix.endpoint, 0},
                               .flush = flush.flush,
                               .puts = flush.puts,
                               .code = uint32_t(-stream.put_status)};
    events_.push_back([this, process, reply] {
      if (const auto it = by_process_.find(process); it != by_process_.end())
        SendActive(it->second, kFlushReplyId, ToBytes(reply), {}, {}, {});
    });
    return true;
  });
}

ucs_status_t UcxTransport::OnFlushReply(const void* header, size_t header_bytes) {
  FlushHeader reply = {};
  if (header_bytes != sizeof(reply)) return UCS_OK;
  std::memcpy(&reply, header, sizeof(reply));
  const auto it = endpoints_.find(reply.prefix.endpoint);  // of ours, as we told
  if (it == endpoints_.end()) return UCS_OK;
  const auto flush = it->second->flushes.find(reply.flush);
  if (flush == it->second->flushes.end()) return UCS_OK;
  const auto status = ucs_status_t(-int(reply.code));
  Later(std::move(flush->second), FromUcs(status, "a put was refused by its target"));
  it->second->flushes.erase(flush);
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
