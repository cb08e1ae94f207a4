#include "decode_worker/rank_mesh.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace baleen::decode_worker {
namespace {

struct Header {
  uint32_t kind;
  uint32_t rank;
  uint64_t round;
  RankMesh::Words words;
};
static_assert(sizeof(Header) == RankMesh::kHeaderBytes);
static_assert(std::is_trivially_copyable_v<Header>);

}  // namespace

const char* Name(RankMesh::Kind kind) {
  switch (kind) {
    case RankMesh::Kind::kAgree:
      return "agree";
    case RankMesh::Kind::kDispatch:
      return "dispatch";
    case RankMesh::Kind::kCollect:
      return "collect";
    case RankMesh::Kind::kConnect:
      return "connect";
    case RankMesh::Kind::kMissing:
      return "missing";
  }
  return "?";
}

RankMesh::RankMesh(Options options, Post post)
    : options_(std::move(options)), post_(std::move(post)), received_(size_t(options_.size)) {
  BALEEN_CHECK(options_.size >= 1 && options_.rank >= 0 && options_.rank < options_.size);
  for (int parity = 0; parity < 2; ++parity) {
    slots_[parity].resize(size_t(options_.size));
    for (int peer = 0; peer < options_.size; ++peer)
      if (peer != options_.rank) envelopes_[parity].push_back({.peer = peer});
  }
}

void RankMesh::Flush() { AwaitSent(1 - parity()); }

void RankMesh::AwaitSent(int parity) {
  MutexLock lock(mu_);
  while (sending_[parity] > 0 && failure_.ok()) changed_.Wait(mu_);
}

absl::Status RankMesh::Exchange(Kind kind, std::span<const Outgoing> to) {
  WaitSent();
  if (failed_.load(std::memory_order_acquire)) return status();
  if (size() > 1) {
    Fill(kind, to);
    post_(envelopes_[parity()], parity());
  }
  absl::Status status = AwaitRound(kind);
  if (!status.ok()) Fail(status);
  return status;
}

void RankMesh::Fill(Kind kind, std::span<const Outgoing> to) {
  BALEEN_CHECK(int(to.size()) == size());
  for (Envelope& envelope : envelopes_[parity()]) {
    const Outgoing& out = to[size_t(envelope.peer)];
    const Header header = {.kind = static_cast<uint32_t>(kind),
                           .rank = static_cast<uint32_t>(rank()),
                           .round = round_,
                           .words = out.words};
    std::memcpy(envelope.header.data(), &header, sizeof(header));
    envelope.payload = out.payload;
  }
  MutexLock lock(mu_);
  sending_[parity()] = size() - 1;
}

absl::Status RankMesh::AwaitRound(Kind kind) {
  const TimePoint start = SteadyClock().Now();
  const int want = size() - 1;
  while (arrived_[parity()].load(std::memory_order_acquire) < want &&
         SteadyClock().Now() < start + options_.spin) {
  }
  MutexLock lock(mu_);
  wake_at_ = want;
  while (arrived_[parity()].load(std::memory_order_relaxed) < want && failure_.ok()) {
    if (changed_.WaitUntil(mu_, start + options_.deadline)) continue;
    if (arrived_[parity()].load(std::memory_order_relaxed) == want) break;
    return absl::UnavailableError(absl::StrCat(
        "decode ", Missing(parity()), " did not answer within ",
        std::chrono::duration_cast<std::chrono::milliseconds>(options_.deadline).count(),
        " ms (round ", round_, ", ", Name(kind), ")"));
  }
  // A round that is complete counts, even if a sibling left right after it.
  if (arrived_[parity()].load(std::memory_order_relaxed) < want) return failure_;
  return TakeRound(kind);
}

absl::Status RankMesh::TakeRound(Kind kind) {
  const int now = parity();
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank()) continue;
    Slot& slot = slots_[now][size_t(peer)];
    if (slot.kind != kind || slot.round != round_)
      return absl::InternalError(
          absl::StrCat("decode rank ", peer, " is out of step: ", Name(slot.kind), " of round ",
                       slot.round, " where this rank is at ", Name(kind), " of round ", round_));
    received_[size_t(peer)] = std::move(slot.message);
    slot.full = false;
  }
  arrived_[now].store(0, std::memory_order_release);
  ++round_;
  return absl::OkStatus();
}

std::string RankMesh::Missing(int parity) const {
  std::string missing;
  for (int peer = 0; peer < size(); ++peer)
    if (peer != rank() && !slots_[parity][size_t(peer)].full)
      absl::StrAppend(&missing, missing.empty() ? "rank " : ", rank ", peer);
  return missing;
}

bool RankMesh::WaitForPeers() {
  MutexLock lock(mu_);
  wake_at_ = 1;
  while (arrived_[parity()].load(std::memory_order_relaxed) == 0 && !woken_ && failure_.ok())
    changed_.Wait(mu_);
  woken_ = false;
  return arrived_[parity()].load(std::memory_order_relaxed) > 0;
}

void RankMesh::Wake() {
  {
    MutexLock lock(mu_);
    woken_ = true;
  }
  changed_.NotifyAll();
}

void RankMesh::Deliver(int peer, std::span<const std::byte> header, kv_transfer::Buffer payload) {
  Header in = {};
  bool complete = false;
  bool ok = header.size() == sizeof(in) && peer >= 0 && peer < size() && peer != rank();
  if (ok) std::memcpy(&in, header.data(), sizeof(in));
  if (!ok || int(in.rank) != peer)
    return Fail(absl::InternalError(absl::StrCat("malformed message from decode rank ", peer)));
  {
    MutexLock lock(mu_);
    Slot& slot = slots_[in.round & 1][size_t(peer)];
    ok = !slot.full;
    if (ok) {
      slot = {.full = true,
              .kind = static_cast<Kind>(in.kind),
              .round = in.round,
              .message = {.words = in.words, .payload = std::move(payload)}};
      complete = arrived_[in.round & 1].fetch_add(1, std::memory_order_release) + 1 >= wake_at_;
    }
  }
  if (!ok)
    return Fail(absl::InternalError(
        absl::StrCat("decode rank ", peer, " is out of step: round ", in.round, " came early")));
  if (complete) changed_.NotifyAll();
}

void RankMesh::SendDone(int parity, const absl::Status& status) {
  bool all = false;
  {
    MutexLock lock(mu_);
    all = --sending_[parity] == 0;
  }
  if (all) changed_.NotifyAll();
  if (!status.ok()) Fail(status);
}

void RankMesh::Fail(const absl::Status& why) {
  {
    MutexLock lock(mu_);
    if (!failure_.ok()) return;
    failure_ = why;
    failed_.store(true, std::memory_order_release);
  }
  changed_.NotifyAll();
  if (options_.broken) options_.broken(why);
}

absl::Status RankMesh::status() const {
  MutexLock lock(mu_);
  return failure_;
}

}  // namespace baleen::decode_worker
