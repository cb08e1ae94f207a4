#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kv_transfer/buffer.h"
#include "kv_transfer/transport.h"
#include "kv_transfer/ucx/handle.h"
#include "kv_transfer/ucx/ucx_transport_device.h"
#include "kv_transfer/ucx/ucx_transport_wire.h"

namespace baleen::kv_transfer {

// The receiving half of UcxTransport: puts messages in order, carries out puts into registered
// regions, answers flushes. Owner thread only; callbacks go through `events`, which the transport
// runs after ucp_worker_progress.
class UcxInbox {
 public:
  // What comes from one endpoint of a peer process. It may write our regions only once it is bound
  // to an endpoint of ours: one connection attempt there for one here. So the end of ours is the
  // end of theirs, and says nothing of the next one that may be arriving already.
  struct Stream {
    // Fetches into our regions under way, over UCX or by the device; the last one to end of a
    // fenced stream calls puts_ended.
    int puts_arriving = 0;

   private:
    friend class UcxInbox;
    struct Incoming {
      Bytes header;
      Buffer payload;
      bool complete = false;
    };
    uint64_t process = 0;
    uint64_t endpoint = 0;
    bool bound = false;
    uint64_t next = 0;  // message to deliver
    std::map<uint64_t, std::shared_ptr<Incoming>> waiting;
    // Puts: those before put_next are carried out, and those in put_done.
    uint64_t put_next = 0;
    std::set<uint64_t> put_done;
    ucs_status_t put_status = UCS_OK;  // the first that could not be carried out
    std::vector<FlushHeader> flushes;  // not answered
    // What its device puts fetch from, by what was exported.
    std::map<std::string, std::shared_ptr<const PeerMemory::Mapping>> mappings;
    bool fenced = false;
  };
  struct Callbacks {
    std::function<void(std::span<const std::byte> header, Buffer payload)> deliver;
    // Binds the stream to our open endpoint to its process, unless there is none or it has a stream
    // already. Called before a stream's puts are carried out.
    std::function<bool(uint64_t process, const std::shared_ptr<Stream>& stream)> bind;
    // One of ours to that process, with a payload of `text`.
    std::function<void(uint64_t process, unsigned message, Bytes header, const std::string& text)>
        answer;
    std::function<void()> puts_ended;
  };

  struct Region {
    MemoryKind kind;
    std::byte* base;
    size_t bytes;
  };

  // `events` and `device` must outlive it.
  UcxInbox(uint64_t self, std::shared_ptr<BufferPool> buffers, std::vector<Transport::Task>* events,
           UcxDevice* device, Callbacks callbacks);
  // After the worker is gone.
  ~UcxInbox();

  // Installs the receive handlers; `worker` must not make progress after this object's end.
  absl::Status Start(ucp_worker_h worker);

  void AddRegion(uint64_t id, const Region& region) { regions_[id] = region; }
  void RemoveRegion(uint64_t region) { regions_.erase(region); }
  bool HasRegion(uint64_t region) const { return regions_.count(region) > 0; }

  // Binds the stream whose message is being delivered in the place of `bound`, an older one of
  // `process` that the peer gave up, or none. Not while that one's puts are arriving: what waits
  // for `bound` to end must wait for them.
  void BindDelivering(uint64_t process, std::shared_ptr<Stream>* bound);

  // Drops all that comes later from that stream and from older ones of its process. Fetches under
  // way go on: nothing more is written once puts_arriving is 0.
  void Fence(Stream& stream);

  // The device's copies that have ended: their puts are over. Starts fetches that had to wait. Was
  // there anything to do?
  bool Poll();
  bool fetching() const { return !arrivals_.empty() || !copies_.empty() || !waiting_.empty(); }

 private:
  struct Peer {
    uint64_t ended = 0;  // this endpoint of its and older ones are fenced
    std::shared_ptr<Stream> newest;
  };
  struct Arrival {  // one rendezvous on its way in
    UcxInbox* inbox;
    std::shared_ptr<Stream> stream;
    uint64_t sequence;
    std::shared_ptr<Stream::Incoming> message;  // nullptr: a put
    void* data;                                 // UCX's name for what is fetched
    std::byte* to;
    size_t bytes;
    ucp_mem_h device = nullptr;  // where `to` lies in memory of the device
  };

  struct DeviceCopy {
    uint64_t number;  // of PeerMemory
    std::shared_ptr<Stream> stream;
    uint64_t sequence;
  };

  std::shared_ptr<Stream> StreamOf(const Prefix& prefix);
  void OnMessage(const void* header, size_t header_bytes, void* data, size_t bytes,
                 bool rendezvous);
  ucs_status_t OnPut(const void* header, size_t header_bytes, void* data, size_t bytes,
                     bool rendezvous);
  void OnDevicePut(const void* header, size_t header_bytes, const void* data, size_t bytes);
  void OnDeviceAsk(const void* header, size_t header_bytes, absl::string_view exported);
  void OnFlush(const void* header, size_t header_bytes);
  bool Bind(const std::shared_ptr<Stream>& stream);  // is it bound now?
  std::byte* Destination(MemoryKind kind, uint64_t region, uint64_t address, size_t bytes) const;
  absl::StatusOr<std::vector<PeerMemory::Piece>> Pieces(Stream& stream, const DevicePutHeader& put,
                                                        absl::string_view payload);
  absl::StatusOr<std::shared_ptr<const PeerMemory::Mapping>> MappingOf(Stream& stream,
                                                                       absl::string_view exported);
  ucs_status_t FetchToDevice(Arrival arrival);
  bool StartWaiting();
  void Fetch(Arrival arrival);
  void OnFetched(Arrival* arrival, ucs_status_t status);
  void DeliverReady(const std::shared_ptr<Stream>& stream);
  void Deliver(const std::shared_ptr<Stream>& stream, Stream::Incoming& message);
  void OnPutOver(Stream& stream, uint64_t sequence, ucs_status_t status);
  void AnswerFlushes(Stream& stream);

  const uint64_t self_;
  const std::shared_ptr<BufferPool> buffers_;
  std::vector<Transport::Task>* const events_;
  UcxDevice* const device_;
  const Callbacks callbacks_;
  ucp_worker_h worker_ = nullptr;
  std::map<uint64_t, Region> regions_;
  std::map<uint64_t, Peer> peers_;  // by process; what is kept of a gone one is 20 bytes
  std::shared_ptr<Stream> delivering_;
  std::set<Arrival*> arrivals_;
  std::deque<DeviceCopy> copies_;  // under way, in their order
  std::deque<Arrival> waiting_;    // fetches to the device that have not begun
  size_t to_device_ = 0;           // bytes of those that have
};

}  // namespace baleen::kv_transfer
