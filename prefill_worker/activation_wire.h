#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "common/mutex.h"
#include "kv_transfer/link_table.h"

namespace baleen::prefill_worker {

// Activations go from one stage to the next as pages do: put into memory that the next stage lends,
// by whatever the transport has between the two (on GPUs of one machine the next stage's GPU
// fetches them). A stage computes on while its last batch leaves the outbox and while the next one
// arrives in a free slot.

inline constexpr int kActivationSlots = 2;

// Outlives the transport. kDevice: the backend's memory, which the transport shares; else host
// memory, also beside a GPU that shares none.
struct ActivationMemory {
  kv_transfer::MemoryKind kind = kv_transfer::MemoryKind::kHost;
  size_t slot_bytes = 0;     // [max_rows, hidden] f32
  std::byte* in = nullptr;   // [kActivationSlots][slot_bytes]; nullptr on the first stage
  std::byte* out = nullptr;  // [slot_bytes]: the outbox; nullptr on the last stage
};

// The receiving end. Transport thread.
class ActivationSlots {
 public:
  ActivationSlots(kv_transfer::LinkTable& links, const ActivationMemory& memory)
      : links_(links), memory_(memory) {}

  // Tells the previous stage where its activations go.
  absl::Status Offer(kv_transfer::LinkId previous);
  // The slot may be written again.
  void Free(kv_transfer::LinkId previous, int slot);
  // DataLoss: not a slot, or more than fits.
  absl::StatusOr<std::span<const std::byte>> Contents(int slot, uint64_t bytes) const;
  void Close();  // no more puts; the memory may go once the transport has run this

 private:
  kv_transfer::LinkTable& links_;
  const ActivationMemory memory_;
  std::optional<kv_transfer::RegionId> region_;
};

// The sending end: what the outbox holds waits for a slot of the next stage. Transport thread,
// except where it says otherwise.
class ActivationOutbox {
 public:
  using Sent = std::function<void(absl::StatusOr<int> slot)>;

  ActivationOutbox(kv_transfer::LinkTable& links, const ActivationMemory& memory)
      : links_(links), memory_(memory) {}

  // The step thread: waits until the outbox is empty. nullptr after Stop.
  std::byte* Claim();
  void Stop();  // any thread; Claim waits no more

  // The first `bytes` of the outbox to the next stage; `sent` is called with the slot once they are
  // there, or with the error. One at a time.
  void Send(kv_transfer::LinkId next, size_t bytes, Sent sent);
  // The next stage's messages. InvalidArgument: they make no sense.
  absl::Status OnOffer(kv_transfer::LinkId next, std::span<const std::byte> message);
  absl::Status OnFree(std::span<const std::byte> message);
  void Pump();  // also when the link to the next stage has changed its state
  void Close();

 private:
  struct Pending {
    kv_transfer::LinkId next;
    size_t bytes;
    Sent sent;
  };
  void Empty();

  kv_transfer::LinkTable& links_;
  const ActivationMemory memory_;
  std::optional<kv_transfer::RegionId> region_;
  // Of the next stage, once it has offered them.
  std::optional<kv_transfer::RemoteKeyId> key_;
  uint64_t base_ = 0, slot_bytes_ = 0;
  std::deque<int> free_;
  std::optional<Pending> pending_;

  Mutex mu_;
  CondVar emptied_;
  bool claimed_ ABSL_GUARDED_BY(mu_) = false;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace baleen::prefill_worker
