#include "kv_transfer/messages.h"

#include <bit>
#include <cstring>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"

static_assert(std::endian::native == std::endian::little, "integers are copied as they are");

namespace baleen::kv_transfer {
namespace {

// The fields of each message in wire order: the one list both directions use. A is Writer (takes
// const M&) or Reader (takes M&).
template <typename A, typename M>
using Ref = typename A::template Ref<M>;

template <typename A>
void Fields(A& a, Ref<A, PoolExport> m) {
  a(m.base), a(m.page_stride), a(m.page_bytes), a(m.pages), a(m.page_offset), a(m.remote_key);
}
template <typename A>
void Fields(A& a, Ref<A, ProcessIdentity> m) {
  a(m.boot_id), a(m.pid_namespace), a(m.pid), a(m.start_time);
}
template <typename A>
void Fields(A& a, Ref<A, Hello> m) {
  a(m.from), a(m.to), a(m.token), a(m.answers), a(m.name), a(m.transport_address), a(m.fingerprint);
  Fields(a, m.process);
  Fields(a, m.pool);
  a(m.probe_address), a(m.probe_bytes), a(m.probe_key);
}
template <typename A>
void Fields(A& a, Ref<A, HelloReply> m) {
  a(m.refused);
}
template <typename A>
void Fields(A& a, Ref<A, Probe> m) {
  a(m.bytes), a(m.hash);
}
template <typename A>
void Fields(A& a, Ref<A, ProbeReply> m) {
  a(m.content_equal);
}
template <typename A>
void Fields(A& a, Ref<A, Ping> m) {
  a(m.sequence);
}
template <typename A>
void Fields(A& a, Ref<A, Pong> m) {
  a(m.sequence);
}
template <typename A>
void Fields(A& a, Ref<A, Bye> m) {
  a(m.reason);
}
template <typename A>
void Fields(A& a, Ref<A, Grant> m) {
  a(m.grant), a(m.attempt), a(m.ttl_ms), a(m.stage), a(m.stages), a(m.pages);
}
template <typename A>
void Fields(A& a, Ref<A, GrantRevoke> m) {
  a(m.grant);
}
template <typename A>
void Fields(A& a, Ref<A, ChunkDone> m) {
  a(m.grant), a(m.stage), a(m.chunk), a(m.first_page), a(m.page_count), a(m.components), a(m.bytes);
}
template <typename A>
void Fields(A& a, Ref<A, HandoffRecord> m) {
  a(m.first_token), a(m.position), a(m.cached_tokens), a(m.prompt_hash), a(m.draft_tokens);
  a(m.logprobs);
}
template <typename A>
void Fields(A& a, Ref<A, Handoff> m) {
  a(m.grant), a(m.attempt), a(m.stage), a(m.pages);
  Fields(a, m.record);
}
template <typename A>
void Fields(A& a, Ref<A, Release> m) {
  a(m.grant), a(m.attempt);
}
template <typename A>
void Fields(A& a, Ref<A, Drain> m) {
  a(m.grant), a(m.attempt);
}
template <typename A>
void Fields(A& a, Ref<A, Abort> m) {
  a(m.grant), a(m.attempt), a(m.code), a(m.message);
}
template <typename A>
void Fields(A& a, Ref<A, DrainAck> m) {
  a(m.grant), a(m.stage);
}

class Writer {
 public:
  template <typename M>
  using Ref = const M&;

  template <typename T>
  requires std::is_integral_v<T>
  void operator()(const T& value) { Append(&value, sizeof(T)); }
  template <typename Tag, typename T>
  void operator()(const StrongId<Tag, T>& id) {
    (*this)(id.value);
  }
  void operator()(const std::string& s) {
    (*this)(uint32_t(s.size()));
    Append(s.data(), s.size());
  }
  void operator()(const std::vector<uint32_t>& v) {
    (*this)(uint32_t(v.size()));
    Append(v.data(), v.size() * sizeof(uint32_t));
  }
  void operator()(const Fingerprint& fields) {
    (*this)(uint32_t(fields.size()));
    for (const auto& [name, value] : fields) (*this)(name), (*this)(value);
  }
  Bytes Take() { return std::move(bytes_); }

 private:
  void Append(const void* data, size_t size) {
    const auto* p = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), p, p + size);
  }
  Bytes bytes_;
};

// Reads nothing more after the first thing that does not fit.
class Reader {
 public:
  template <typename M>
  using Ref = M&;

  explicit Reader(std::span<const std::byte> bytes) : left_(bytes) {}

  template <typename T>
  requires std::is_integral_v<T>
  void operator()(T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      uint8_t byte = 0;
      Take(&byte, 1);
      if (byte > 1) ok_ = false;
      value = byte == 1;
    } else {
      Take(&value, sizeof(T));
    }
  }
  template <typename Tag, typename T>
  void operator()(StrongId<Tag, T>& id) {
    (*this)(id.value);
  }
  void operator()(std::string& s) {
    s.resize(Count(1));
    Take(s.data(), s.size());
  }
  void operator()(std::vector<uint32_t>& v) {
    v.resize(Count(sizeof(uint32_t)));
    Take(v.data(), v.size() * sizeof(uint32_t));
  }
  void operator()(Fingerprint& fields) {
    fields.resize(Count(2 * sizeof(uint32_t)));
    for (auto& [name, value] : fields) (*this)(name), (*this)(value);
  }
  bool Finished() const { return ok_ && left_.empty(); }

 private:
  // An element count whose elements, `least` bytes each, fit into what is left.
  size_t Count(size_t least) {
    uint32_t count = 0;
    (*this)(count);
    if (size_t{count} * least > left_.size()) ok_ = false;
    return ok_ ? count : 0;
  }
  void Take(void* to, size_t size) {
    if (size > left_.size()) ok_ = false;
    if (!ok_ || size == 0) return;
    std::memcpy(to, left_.data(), size);
    left_ = left_.subspan(size);
  }
  std::span<const std::byte> left_;
  bool ok_ = true;
};

}  // namespace

Bytes EncodeFrame(const Frame& frame) {
  Writer w;
  w(kMagic), w(frame.type), w(kProtocolVersion), w(uint16_t{0}), w(frame.token);
  return w.Take();
}

absl::StatusOr<Frame> DecodeFrame(std::span<const std::byte> header) {
  if (header.size() < kFrameBytes) return absl::InvalidArgumentError("frame: too short");
  Reader r(header.first(kFrameBytes));
  uint32_t magic = 0;
  uint8_t version = 0;
  uint16_t zero = 0;
  Frame frame;
  r(magic), r(frame.type), r(version), r(zero), r(frame.token);
  if (magic != kMagic) return absl::InvalidArgumentError("frame: wrong magic");
  if (version != kProtocolVersion)
    return absl::InvalidArgumentError(
        absl::StrCat("frame: protocol version ", version, ", here ", kProtocolVersion));
  return frame;
}

template <typename Message>
Bytes Encode(const Message& message) {
  Writer w;
  Fields(w, message);
  return w.Take();
}

template <typename Message>
absl::StatusOr<Message> Decode(std::span<const std::byte> bytes) {
  Message message;
  Reader r(bytes);
  Fields(r, message);
  if (!r.Finished())
    return absl::InvalidArgumentError(
        absl::StrCat("message of type ", int(Message::kType), ": malformed"));
  return message;
}

#define BALEEN_INSTANTIATE(M)      \
  template Bytes Encode(const M&); \
  template absl::StatusOr<M> Decode<M>(std::span<const std::byte>)
BALEEN_INSTANTIATE(Hello);
BALEEN_INSTANTIATE(HelloReply);
BALEEN_INSTANTIATE(Probe);
BALEEN_INSTANTIATE(ProbeReply);
BALEEN_INSTANTIATE(Ping);
BALEEN_INSTANTIATE(Pong);
BALEEN_INSTANTIATE(Bye);
BALEEN_INSTANTIATE(Grant);
BALEEN_INSTANTIATE(GrantRevoke);
BALEEN_INSTANTIATE(ChunkDone);
BALEEN_INSTANTIATE(Handoff);
BALEEN_INSTANTIATE(Release);
BALEEN_INSTANTIATE(Abort);
BALEEN_INSTANTIATE(Drain);
BALEEN_INSTANTIATE(DrainAck);
#undef BALEEN_INSTANTIATE

}  // namespace baleen::kv_transfer
