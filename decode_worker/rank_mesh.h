#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "kv_transfer/buffer.h"

namespace baleen::decode_worker {

// The sibling ranks of one decode group, exchanging messages in numbered all-to-all rounds: in each
// round every rank sends exactly one message to every other and receives one from each. Knows
// neither the wire (RankLinks brings that) nor what the messages mean.
//
// A rank can be at most one round ahead of another, so two slots a peer hold everything that can
// arrive; a third message, another kind or another round is a group out of step.
//
// Any failure (deadline, a vanished rank, out of step) is final: the first one is given to
// `broken`, once, and every later call returns it. The process should then end.
//
// Threads: Exchange, From, staging, WaitForPeers on the step thread; Deliver, SendDone on the
// transport's; Wake, Fail, status from any.
class RankMesh {
 public:
  enum class Kind : uint32_t { kAgree = 1, kDispatch, kCollect, kConnect, kMissing };
  using Words = std::array<int32_t, 4>;
  static constexpr int kPieces = 3;

  // To one peer. The payload's pieces are concatenated.
  struct Outgoing {
    Words words = {};
    std::array<std::span<const std::byte>, kPieces> payload = {};
  };
  struct Incoming {
    Words words = {};
    kv_transfer::Buffer payload;
  };
  // On the wire: kind u32, rank u32, round u64, words 4 x i32, little-endian.
  static constexpr size_t kHeaderBytes = 32;
  struct Envelope {
    int peer = 0;
    std::array<std::byte, kHeaderBytes> header = {};
    std::array<std::span<const std::byte>, kPieces> payload = {};
  };
  // Sends the envelopes; returns at once. They stay valid until SendDone(parity) was called once
  // for each of them.
  using Post = std::function<void(std::span<const Envelope>, int parity)>;

  struct Options {
    int rank = 0;
    int size = 1;
    Duration deadline = std::chrono::seconds(6);      // for a peer's message, once ours is sent
    Duration spin = std::chrono::microseconds(0);     // before sleeping, for a peer's message
    std::function<void(const absl::Status&)> broken;  // any thread; must not block
  };

  RankMesh(Options options, Post post);

  int rank() const { return options_.rank; }
  int size() const { return options_.size; }

  // Parity of the next round. Memory sent in a round of the same parity may be written again once
  // WaitSent returned.
  int parity() const { return static_cast<int>(round_ & 1); }
  void WaitSent() { AwaitSent(parity()); }

  // Sends to[p] to every peer p (to[rank()] is not looked at) and waits for all of theirs.
  absl::Status Exchange(Kind kind, std::span<const Outgoing> to);
  // Until what the last Exchange sent is on its way, or the mesh failed.
  void Flush();
  // What `peer` sent in the last Exchange; valid until the next.
  const Incoming& From(int peer) const { return received_[size_t(peer)]; }

  // Blocks until a peer has begun the next round, Wake was called since the last return, or the
  // mesh failed. True: a peer waits for us.
  bool WaitForPeers();
  void Wake();

  void Deliver(int peer, std::span<const std::byte> header, kv_transfer::Buffer payload);
  void SendDone(int parity, const absl::Status& status);
  void Fail(const absl::Status& why);
  absl::Status status() const;
  uint64_t rounds() const { return round_; }  // step thread

 private:
  struct Slot {
    bool full = false;
    Kind kind = Kind::kAgree;
    uint64_t round = 0;
    Incoming message;
  };
  void AwaitSent(int parity);
  void Fill(Kind kind, std::span<const Outgoing> to);
  absl::Status AwaitRound(Kind kind);
  absl::Status TakeRound(Kind kind) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::string Missing(int parity) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  const Post post_;
  uint64_t round_ = 0;              // of the next Exchange
  std::vector<Incoming> received_;  // [size]
  std::vector<Envelope> envelopes_[2];

  mutable Mutex mu_;
  CondVar changed_;
  std::vector<Slot> slots_[2] ABSL_GUARDED_BY(mu_);  // [parity][size]
  // Full slots of a parity; written under mu_, also read by the spinning step thread.
  std::atomic<int> arrived_[2] = {};
  int sending_[2] ABSL_GUARDED_BY(mu_) = {};
  // The step thread sleeps until this many messages of the next round are here.
  int wake_at_ ABSL_GUARDED_BY(mu_) = 0;
  bool woken_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mu_);
  std::atomic<bool> failed_ = false;
};

const char* Name(RankMesh::Kind kind);

}  // namespace baleen::decode_worker
