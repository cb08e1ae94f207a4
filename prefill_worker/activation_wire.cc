#include "prefill_worker/activation_wire.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "common/wire.h"
#include "prefill_worker/stage_report.h"

namespace baleen::prefill_worker {

using kv_transfer::LinkId;
using kv_transfer::MemoryKind;

namespace {

void SendBytes(kv_transfer::LinkTable& links, LinkId link, uint8_t type, ByteWriter message) {
  auto bytes = std::make_shared<std::vector<std::byte>>(message.Take());
  const std::span<const std::byte> pieces[] = {*bytes};
  links.Send(link, type, {}, pieces, [bytes](const absl::Status&) {});
}

}  // namespace

absl::Status ActivationSlots::Offer(LinkId previous) {
  kv_transfer::Transport& transport = links_.transport();
  if (!region_) {
    BALEEN_ASSIGN_OR_RETURN(
        region_,
        transport.RegisterRegion(memory_.kind, memory_.in, kActivationSlots * memory_.slot_bytes));
  }
  BALEEN_ASSIGN_OR_RETURN(const std::string key, transport.PackRemoteKey(*region_));
  ByteWriter out;
  out.Put(reinterpret_cast<uint64_t>(memory_.in));
  out.Put(uint64_t{memory_.slot_bytes});
  out.PutString(key);
  SendBytes(links_, previous, kSlotsMessage, std::move(out));
  return absl::OkStatus();
}

void ActivationSlots::Free(LinkId previous, int slot) {
  ByteWriter out;
  out.Put(int32_t{slot});
  SendBytes(links_, previous, kSlotFreeMessage, std::move(out));
}

absl::StatusOr<std::span<const std::byte>> ActivationSlots::Contents(int slot,
                                                                     uint64_t bytes) const {
  if (bytes == 0) return std::span<const std::byte>();
  if (slot < 0 || slot >= kActivationSlots || bytes > memory_.slot_bytes || memory_.in == nullptr)
    return absl::DataLossError(absl::StrCat("batch: ", bytes, " bytes of activations in slot ",
                                            slot, ", there are ", kActivationSlots, " of ",
                                            memory_.slot_bytes));
  return std::span<const std::byte>(memory_.in + size_t(slot) * memory_.slot_bytes, bytes);
}

void ActivationSlots::Close() {
  if (region_) links_.transport().DeregisterRegion(*region_);
  region_.reset();
}

std::byte* ActivationOutbox::Claim() {
  MutexLock lock(mu_);
  while (claimed_ && !stopped_) emptied_.Wait(mu_);
  if (stopped_) return nullptr;
  claimed_ = true;
  return memory_.out;
}

void ActivationOutbox::Stop() {
  {
    MutexLock lock(mu_);
    stopped_ = true;
  }
  emptied_.NotifyAll();
}

void ActivationOutbox::Empty() {
  {
    MutexLock lock(mu_);
    claimed_ = false;
  }
  emptied_.NotifyAll();
}

void ActivationOutbox::Send(LinkId next, size_t bytes, Sent sent) {
  BALEEN_CHECK(!pending_ && bytes <= memory_.slot_bytes);
  pending_ = {next, bytes, std::move(sent)};
  Pump();
}

absl::Status ActivationOutbox::OnOffer(LinkId next, std::span<const std::byte> message) {
  ByteReader in(message);
  base_ = in.Get<uint64_t>();
  slot_bytes_ = in.Get<uint64_t>();
  const std::string key = in.GetString();
  if (!in.Done()) return absl::InvalidArgumentError("slots for activations: wrong length");
  if (slot_bytes_ < memory_.slot_bytes)
    return absl::InvalidArgumentError(absl::StrCat("slots for activations: the next stage's have ",
                                                   slot_bytes_, " bytes, a batch here up to ",
                                                   memory_.slot_bytes, " (chunk_tokens)"));
  if (memory_.kind == MemoryKind::kDevice && !region_) {
    BALEEN_ASSIGN_OR_RETURN(
        region_, links_.transport().RegisterRegion(memory_.kind, memory_.out, memory_.slot_bytes));
  }
  BALEEN_ASSIGN_OR_RETURN(key_, links_.ImportKey(next, key));
  free_.clear();
  for (int slot = 0; slot < kActivationSlots; ++slot) free_.push_back(slot);
  Pump();
  return absl::OkStatus();
}

absl::Status ActivationOutbox::OnFree(std::span<const std::byte> message) {
  ByteReader in(message);
  const int32_t slot = in.Get<int32_t>();
  const bool known = std::find(free_.begin(), free_.end(), slot) != free_.end();
  if (!in.Done() || slot < 0 || slot >= kActivationSlots || known)
    return absl::InvalidArgumentError("a slot for activations that was not in use");
  free_.push_back(slot);
  Pump();
  return absl::OkStatus();
}

// A slot is the next stage's until it says that it is free; the outbox is ours once the bytes are
// there.
void ActivationOutbox::Pump() {
  if (!pending_ || free_.empty()) return;
  const auto info = links_.Info(pending_->next);
  if (!info || !CarriesPages(info->state)) return;  // it may be up at their end only
  const int slot = free_.front();
  free_.pop_front();
  Pending pending = *std::exchange(pending_, std::nullopt);
  const kv_transfer::Transport::Piece piece = {{memory_.out, pending.bytes},
                                               base_ + uint64_t(slot) * slot_bytes_};
  links_.Put(pending.next, {&piece, 1}, *key_, {});
  links_.Flush(pending.next,
               [this, slot, sent = std::move(pending.sent)](const absl::Status& status) {
                 Empty();
                 sent(status.ok() ? absl::StatusOr<int>(slot) : status);
               });
}

void ActivationOutbox::Close() {
  Stop();
  pending_.reset();
  if (region_) links_.transport().DeregisterRegion(*region_);
  region_.reset();
}

}  // namespace baleen::prefill_worker
