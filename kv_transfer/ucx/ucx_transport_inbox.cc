#include "kv_transfer/ucx/ucx_transport_inbox.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/status_macros.h"
#include "spdlog/spdlog.h"

namespace baleen::kv_transfer {
namespace {

// On its way to the device by UCX at once. Where the wire cannot reach the device, UCX stages that
// much in pinned host memory at both ends.
constexpr size_t kMostToDevice = size_t{64} << 20;

}  // namespace

UcxInbox::UcxInbox(uint64_t self, std::shared_ptr<BufferPool> buffers,
                   std::vector<Transport::Task>* events, UcxDevice* device, Callbacks callbacks)
    : self_(self),
      buffers_(std::move(buffers)),
      events_(events),
      device_(device),
      callbacks_(std::move(callbacks)) {}

UcxInbox::~UcxInbox() {
  for (Arrival* arrival : arrivals_) delete arrival;
}

absl::Status UcxInbox::Start(ucp_worker_h worker) {
  worker_ = worker;
  const auto handle = [this](unsigned id, ucp_am_recv_callback_t callback) {
    ucp_am_handler_param_t param = {};
    param.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                       UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    param.id = id;
    param.flags = UCP_AM_FLAG_WHOLE_MSG;
    param.cb = callback;
    param.arg = this;
    return FromUcs(ucp_worker_set_am_recv_handler(worker_, &param),
                   "ucp_worker_set_am_recv_handler");
  };
  BALEEN_RETURN_IF_ERROR(
      handle(kMessageId, [](void* self, const void* header, size_t header_bytes, void* data,
                            size_t bytes, const ucp_am_recv_param_t* param) {
        static_cast<UcxInbox*>(self)->OnMessage(header, header_bytes, data, bytes,
                                                param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV);
        return UCS_OK;
      }));
  BALEEN_RETURN_IF_ERROR(
      handle(kPutId, [](void* self, const void* header, size_t header_bytes, void* data,
                        size_t bytes, const ucp_am_recv_param_t* param) {
        return static_cast<UcxInbox*>(self)->OnPut(header, header_bytes, data, bytes,
                                                   param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV);
      }));
  BALEEN_RETURN_IF_ERROR(
      handle(kDevicePutId, [](void* self, const void* header, size_t header_bytes, void* data,
                              size_t bytes, const ucp_am_recv_param_t*) {
        static_cast<UcxInbox*>(self)->OnDevicePut(header, header_bytes, data, bytes);
        return UCS_OK;
      }));
  BALEEN_RETURN_IF_ERROR(
      handle(kDeviceAskId, [](void* self, const void* header, size_t header_bytes, void* data,
                              size_t bytes, const ucp_am_recv_param_t*) {
        static_cast<UcxInbox*>(self)->OnDeviceAsk(header, header_bytes,
                                                  {static_cast<const char*>(data), bytes});
        return UCS_OK;
      }));
  return handle(kFlushId, [](void* self, const void* header, size_t header_bytes, void*, size_t,
                             const ucp_am_recv_param_t*) {
    static_cast<UcxInbox*>(self)->OnFlush(header, header_bytes);
    return UCS_OK;
  });
}

// The stream of that endpoint; nullptr for one that is fenced or that its process has replaced.
std::shared_ptr<UcxInbox::Stream> UcxInbox::StreamOf(const Prefix& prefix) {
  Peer& peer = peers_[prefix.process];
  if (prefix.endpoint <= peer.ended) return nullptr;
  if (peer.newest != nullptr && prefix.endpoint < peer.newest->endpoint) return nullptr;
  if (peer.newest == nullptr || prefix.endpoint > peer.newest->endpoint) {
    peer.newest = std::make_shared<Stream>();
    peer.newest->process = prefix.process;
    peer.newest->endpoint = prefix.endpoint;
  }
  return peer.newest;
}

bool UcxInbox::Bind(const std::shared_ptr<Stream>& stream) {
  if (!stream->bound && !stream->fenced) stream->bound = callbacks_.bind(stream->process, stream);
  return stream->bound;
}

void UcxInbox::BindDelivering(uint64_t process, std::shared_ptr<Stream>* bound) {
  const std::shared_ptr<Stream>& stream = delivering_;
  if (stream == nullptr || stream->process != process || stream->bound || stream->fenced) return;
  if (Stream* former = bound->get()) {
    if (former->endpoint > stream->endpoint || former->puts_arriving > 0) return;
    Fence(*former);
  }
  stream->bound = true;
  *bound = stream;
}

void UcxInbox::Fence(Stream& stream) {
  stream.fenced = true;
  stream.waiting.clear();
  stream.flushes.clear();
  std::erase_if(waiting_, [&](const Arrival& arrival) {
    if (arrival.stream.get() != &stream) return false;
    ucp_am_data_release(worker_, arrival.data);
    return true;
  });
  Peer& peer = peers_[stream.process];
  peer.ended = std::max(peer.ended, stream.endpoint);
  if (peer.newest != nullptr && peer.newest->endpoint <= peer.ended) peer.newest = nullptr;
}

// ---- messages ----------------------------------------------------------------------------------

void UcxInbox::OnMessage(const void* header, size_t header_bytes, void* data, size_t bytes,
                         bool rendezvous) {
  Prefix prefix = {};
  if (header_bytes < sizeof(prefix)) return;
  std::memcpy(&prefix, header, sizeof(prefix));
  const std::shared_ptr<Stream> stream = StreamOf(prefix);
  if (stream == nullptr || prefix.sequence < stream->next) return;
  auto incoming = std::make_shared<Stream::Incoming>();
  const auto* begin = static_cast<const std::byte*>(header);
  incoming->header.assign(begin + sizeof(prefix), begin + header_bytes);
  incoming->payload = buffers_->Get(bytes);
  stream->waiting[prefix.sequence] = incoming;
  if (rendezvous) {
    std::byte* const to = incoming->payload.data();
    return Fetch({this, stream, prefix.sequence, std::move(incoming), data, to, bytes});
  }
  if (bytes > 0) std::memcpy(incoming->payload.data(), data, bytes);
  incoming->complete = true;
  DeliverReady(stream);
}

void UcxInbox::DeliverReady(const std::shared_ptr<Stream>& stream) {
  auto& waiting = stream->waiting;
  for (auto it = waiting.begin();
       it != waiting.end() && it->first == stream->next && it->second->complete;
       it = waiting.erase(it), ++stream->next)
    events_->push_back([this, stream, incoming = it->second] { Deliver(stream, *incoming); });
}

void UcxInbox::Deliver(const std::shared_ptr<Stream>& stream, Stream::Incoming& message) {
  if (stream->fenced) return;
  delivering_ = stream;
  callbacks_.deliver(message.header, std::move(message.payload));
  delivering_ = nullptr;
}

// Fetches the data of a rendezvous into its place.
void UcxInbox::Fetch(Arrival arrival) {
  auto* const owned = new Arrival(std::move(arrival));
  arrivals_.insert(owned);
  ucp_request_param_t param = {};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  param.user_data = owned;
  param.memory_type = UCS_MEMORY_TYPE_HOST;
  if (owned->device != nullptr) {
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMH;
    param.memory_type = device_->type();
    param.memh = owned->device;
    to_device_ += owned->bytes;
  }
  if (owned->message == nullptr) ++owned->stream->puts_arriving;
  param.cb.recv_am = [](void* request, ucs_status_t status, size_t, void* user) {
    ucp_request_free(request);
    auto* over = static_cast<Arrival*>(user);
    over->inbox->OnFetched(over, status);
  };
  const ucs_status_ptr_t request =
      ucp_am_recv_data_nbx(worker_, owned->data, owned->to, owned->bytes, &param);
  if (!UCS_PTR_IS_PTR(request)) OnFetched(owned, UCS_PTR_STATUS(request));
}

void UcxInbox::OnFetched(Arrival* arrival, ucs_status_t status) {
  const std::unique_ptr<Arrival> owned(arrival);
  arrivals_.erase(arrival);
  const std::shared_ptr<Stream>& stream = owned->stream;
  if (owned->device != nullptr) to_device_ -= owned->bytes;
  if (owned->message == nullptr) {
    --stream->puts_arriving;
    return OnPutOver(*stream, owned->sequence, status);
  }
  if (stream->fenced) return;
  if (status != UCS_OK)  // a hole that nothing fills: the connection is over
    return spdlog::warn("a message was cut off: {}", ucs_status_string(status));
  owned->message->complete = true;
  DeliverReady(stream);
}

// ---- puts --------------------------------------------------------------------------------------

// What UCX is to do with `data`. A rendezvous that is not fetched: on UCS_OK, UCX lets the peer's
// send complete; on UCS_INPROGRESS it keeps `data` for us.
ucs_status_t UcxInbox::OnPut(const void* header, size_t header_bytes, void* data, size_t bytes,
                             bool rendezvous) {
  PutHeader put = {};
  if (!FromBytes(header, header_bytes, &put)) return UCS_OK;
  const std::shared_ptr<Stream> stream = StreamOf(put.prefix);
  if (stream == nullptr || !Bind(stream)) return UCS_OK;
  const uint64_t sequence = put.prefix.sequence;
  std::byte* const to = Destination(put.kind, put.region, put.address, bytes);
  if (to == nullptr) {
    OnPutOver(*stream, sequence, UCS_ERR_INVALID_ADDR);
  } else if (put.kind == MemoryKind::kDevice && bytes > 0) {
    const UcxDevice::Region* const region = device_->Find(to);
    const ucp_mem_h memory = region == nullptr ? nullptr : region->memory.get();
    if (rendezvous && memory != nullptr)
      return FetchToDevice({this, stream, sequence, nullptr, data, to, bytes, memory});
    OnPutOver(*stream, sequence, UCS_ERR_UNSUPPORTED);
  } else if (rendezvous) {
    Fetch({this, stream, sequence, nullptr, data, to, bytes});
  } else {
    if (bytes > 0) std::memcpy(to, data, bytes);
    OnPutOver(*stream, sequence, UCS_OK);
  }
  return UCS_OK;
}

ucs_status_t UcxInbox::FetchToDevice(Arrival arrival) {
  waiting_.push_back(std::move(arrival));
  StartWaiting();
  return waiting_.empty() ? UCS_OK : UCS_INPROGRESS;  // of those that wait it is the last
}

bool UcxInbox::StartWaiting() {
  bool any = false;
  for (; !waiting_.empty(); any = true) {
    if (to_device_ > 0 && to_device_ + waiting_.front().bytes > kMostToDevice) break;
    Arrival next = std::move(waiting_.front());
    waiting_.pop_front();
    Fetch(std::move(next));
  }
  return any;
}

// Where it may write; nullptr when that does not lie inside a region of this kind.
std::byte* UcxInbox::Destination(MemoryKind kind, uint64_t region, uint64_t address,
                                 size_t bytes) const {
  const auto it = regions_.find(region);
  if (it == regions_.end() || it->second.kind != kind) return nullptr;
  const auto base = reinterpret_cast<uint64_t>(it->second.base);
  const bool inside = address >= base && address - base <= it->second.bytes &&
                      bytes <= it->second.bytes - (address - base);
  return inside ? it->second.base + (address - base) : nullptr;
}

void UcxInbox::OnDevicePut(const void* header, size_t header_bytes, const void* data,
                           size_t bytes) {
  DevicePutHeader put = {};
  if (!FromBytes(header, header_bytes, &put)) return;
  const std::shared_ptr<Stream> stream = StreamOf(put.prefix);
  if (stream == nullptr || !Bind(stream)) return;
  const uint64_t sequence = put.prefix.sequence;
  stream->flushes.push_back({.prefix = put.prefix, .puts = sequence + 1});
  const auto pieces = Pieces(*stream, put, {static_cast<const char*>(data), bytes});
  if (!pieces.ok()) {
    spdlog::error("a put between devices was refused: {}", pieces.status().ToString());
    return OnPutOver(*stream, sequence, UCS_ERR_UNREACHABLE);
  }
  ++stream->puts_arriving;
  copies_.push_back({device_->memory()->Copy(*pieces), stream, sequence});
}

absl::StatusOr<std::vector<PeerMemory::Piece>> UcxInbox::Pieces(Stream& stream,
                                                                const DevicePutHeader& put,
                                                                absl::string_view payload) {
  if (put.exported_bytes > payload.size() ||
      (payload.size() - put.exported_bytes) % sizeof(DevicePiece) != 0)
    return absl::InvalidArgumentError("cut off");
  BALEEN_ASSIGN_OR_RETURN(const auto mapping,
                          MappingOf(stream, payload.substr(0, put.exported_bytes)));
  payload.remove_prefix(put.exported_bytes);
  std::vector<PeerMemory::Piece> pieces;
  for (; !payload.empty(); payload.remove_prefix(sizeof(DevicePiece))) {
    DevicePiece piece = {};
    std::memcpy(&piece, payload.data(), sizeof(piece));
    std::byte* const to = Destination(MemoryKind::kDevice, put.region, piece.address, piece.bytes);
    const bool inside =
        piece.offset <= mapping->bytes && piece.bytes <= mapping->bytes - piece.offset;
    if (to == nullptr || !inside) return absl::OutOfRangeError("not inside both regions");
    if (piece.bytes > 0) pieces.push_back({to, mapping->base + piece.offset, piece.bytes});
  }
  return pieces;
}

absl::StatusOr<std::shared_ptr<const PeerMemory::Mapping>> UcxInbox::MappingOf(
    Stream& stream, absl::string_view exported) {
  auto& mapping = stream.mappings[std::string(exported)];
  if (mapping == nullptr) {
    BALEEN_ASSIGN_OR_RETURN(mapping, device_->Import(exported));
  }
  return mapping;
}

void UcxInbox::OnDeviceAsk(const void* header, size_t header_bytes, absl::string_view exported) {
  DeviceAskHeader ask = {};
  if (!FromBytes(header, header_bytes, &ask)) return;
  const std::shared_ptr<Stream> stream = StreamOf(ask.prefix);
  if (stream == nullptr || !Bind(stream)) return;
  const absl::Status mapped = MappingOf(*stream, exported).status();
  auto way = ChooseDeviceWay(mapped, ask.by_ucx == 1, device_->by_ucx());
  if (way.ok() && *way == DeviceWay::kUcx)
    if (const absl::Status used = device_->UseUcx(); !used.ok()) way = used;
  const DeviceAnswerHeader answer = {.prefix = {self_, ask.prefix.endpoint, 0},
                                     .ask = ask.ask,
                                     .way = way.value_or(DeviceWay::kNone)};
  events_->push_back(
      [this, process = stream->process, answer, text = std::string(way.status().message())] {
        callbacks_.answer(process, kDeviceAnswerId, ToBytes(answer), text);
      });
}

bool UcxInbox::Poll() {
  bool any = StartWaiting();
  if (copies_.empty()) return any;
  const uint64_t finished = device_->memory()->Finished();
  for (; !copies_.empty() && copies_.front().number <= finished; any = true) {
    const DeviceCopy over = std::move(copies_.front());
    copies_.pop_front();
    --over.stream->puts_arriving;
    OnPutOver(*over.stream, over.sequence, UCS_OK);
  }
  return any;
}

void UcxInbox::OnPutOver(Stream& stream, uint64_t sequence, ucs_status_t status) {
  if (status != UCS_OK && stream.put_status == UCS_OK) stream.put_status = status;
  stream.put_done.insert(sequence);
  while (stream.put_done.erase(stream.put_next) > 0) ++stream.put_next;
  if (!stream.fenced) return AnswerFlushes(stream);
  if (stream.puts_arriving == 0) events_->push_back(callbacks_.puts_ended);
}

void UcxInbox::OnFlush(const void* header, size_t header_bytes) {
  FlushHeader flush = {};
  if (!FromBytes(header, header_bytes, &flush)) return;
  const std::shared_ptr<Stream> stream = StreamOf(flush.prefix);
  if (stream == nullptr) return;
  stream->flushes.push_back(flush);
  AnswerFlushes(*stream);
}

void UcxInbox::AnswerFlushes(Stream& stream) {
  std::erase_if(stream.flushes, [&](const FlushHeader& flush) {
    if (flush.puts > stream.put_next) return false;
    const FlushHeader reply = {.prefix = {self_, flush.prefix.endpoint, 0},
                               .flush = flush.flush,
                               .puts = flush.puts,
                               .code = uint64_t(-stream.put_status)};
    events_->push_back([this, process = stream.process, reply] {
      callbacks_.answer(process, kFlushReplyId, ToBytes(reply), "");
    });
    return true;
  });
}

}  // namespace baleen::kv_transfer
