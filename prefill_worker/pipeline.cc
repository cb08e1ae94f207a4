#include "prefill_worker/pipeline.h"

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/log.h"
#include "common/wire.h"

namespace baleen::prefill_worker {

using kv_transfer::Buffer;
using kv_transfer::LinkId;
using kv_transfer::LinkState;
using kv_transfer::LinkTable;

// Lives on the transport's thread; the tasks posted there keep it alive.
struct Pipeline::State {
  State(LinkTable& links, int index, const ActivationMemory& memory, Callbacks callbacks)
      : links(links),
        index(index),
        callbacks(std::move(callbacks)),
        slots(links, memory),
        outbox(links, memory) {}

  void OnMessage(LinkId link, uint8_t type, Buffer message);
  void SetMembers(const std::vector<worker::MemberInfo>& infos);
  // What a message of that type must come from: a member, or one stage of them.
  bool Expected(uint8_t type, std::ptrdiff_t from) const;
  void Dispatch(LinkId link, uint8_t type, Buffer message);
  void OnBatch(Buffer message);
  void OnReport(Buffer message);
  void OnLink(LinkId link, LinkState state, const absl::Status& why);
  void OfferSlots();
  void SendNext();
  void PassOn(const std::shared_ptr<State>& self,
              const std::shared_ptr<std::vector<std::byte>>& header, size_t bytes);
  void SendHeader(const std::shared_ptr<std::vector<std::byte>>& header, int slot, size_t bytes);
  void ConnectTo(const worker::MemberInfo& member, std::optional<LinkId>& link);
  void Send(std::optional<LinkId> link, uint8_t type,
            std::span<const std::span<const std::byte>> pieces, LinkTable::Done done);
  void Broken(const absl::Status& why) {
    outbox.Stop();
    if (!closed) callbacks.broken(why);
  }

  LinkTable& links;
  const int index;
  const Callbacks callbacks;
  std::vector<Incarnation> members;  // by index; empty until the group is formed
  struct Early {
    LinkId link;
    uint8_t type;
    Buffer message;
  };
  std::vector<Early> early;
  uint64_t last_batch = 0;  // the number of the last one that came
  std::optional<LinkId> next, leader, previous;
  ActivationSlots slots;    // of this stage
  ActivationOutbox outbox;  // to the next one's
  // Batches on their way out, in order: each waits until those before it have gone.
  std::deque<std::function<void()>> outgoing;
  bool sending = false;
  bool closed = false;
};

void Pipeline::State::OnMessage(LinkId link, uint8_t type, Buffer message) {
  if (closed) return;
  if (members.empty()) {
    if (early.size() == kMaxEarly)
      return Broken(absl::ResourceExhaustedError("too many messages before the group is formed"));
    return early.push_back({link, type, std::move(message)});
  }
  const auto info = links.Info(link);
  const auto from = info ? std::find(members.begin(), members.end(), info->peer) : members.end();
  if (from == members.end() || !Expected(type, from - members.begin())) {
    spdlog::warn("dropped a message of type {} from {}", type,
                 info ? info->peer_name : "a link that is gone");
    return;
  }
  Dispatch(link, type, std::move(message));
}

bool Pipeline::State::Expected(uint8_t type, std::ptrdiff_t from) const {
  if (type == kBatchMessage) return from == index - 1;
  if (type == kReportMessage) return true;
  return from == index + 1;
}

void Pipeline::State::Dispatch(LinkId link, uint8_t type, Buffer message) {
  if (type == kBatchMessage) return OnBatch(std::move(message));
  if (type == kReportMessage) return OnReport(std::move(message));
  const absl::Status status =
      type == kSlotsMessage ? outbox.OnOffer(link, message.span()) : outbox.OnFree(message.span());
  if (!status.ok()) Broken(status);
}

void Pipeline::State::SetMembers(const std::vector<worker::MemberInfo>& infos) {
  for (const worker::MemberInfo& member : infos) members.push_back(member.incarnation);
  OfferSlots();
  for (Early& e : std::exchange(early, {})) OnMessage(e.link, e.type, std::move(e.message));
}

// Once the previous stage is known and its link is up.
void Pipeline::State::OfferSlots() {
  if (index == 0 || std::ssize(members) < index || previous || closed) return;
  const std::optional<LinkId> link = links.Find(members[size_t(index) - 1]);
  const auto info = link ? links.Info(*link) : std::nullopt;
  if (!info || info->state != LinkState::kUp) return;
  previous = link;
  if (const absl::Status offered = slots.Offer(*link); !offered.ok()) Broken(offered);
}

void Pipeline::State::OnBatch(Buffer message) {
  ByteReader in(message.span());
  const std::vector<std::byte> bytes = in.GetVector<std::byte>();
  const int32_t slot = in.Get<int32_t>();
  const uint64_t activation_bytes = in.Get<uint64_t>();
  if (!in.Done()) return Broken(absl::DataLossError("batch: wrong length"));
  absl::StatusOr<BatchHeader> header = DecodeBatchHeader(bytes);
  if (!header.ok()) return Broken(header.status());
  if (header->number != last_batch + 1)
    return Broken(
        absl::DataLossError(absl::StrCat("batch ", header->number, " after batch ", last_batch)));
  const auto activations = slots.Contents(slot, activation_bytes);
  if (!activations.ok()) return Broken(activations.status());
  last_batch = header->number;
  if (!closed) callbacks.batch({*std::move(header), *activations, slot});
}

void Pipeline::State::OnReport(Buffer message) {
  absl::StatusOr<StageReport> report = DecodeStageReport(message.span());
  if (!report.ok()) return Broken(report.status());
  if (!closed) callbacks.report(*std::move(report));
}

void Pipeline::State::OnLink(LinkId link, LinkState state, const absl::Status& why) {
  if (state == LinkState::kUp) OfferSlots();
  if (next == link) outbox.Pump();
  if (state != LinkState::kFenced) return;
  if (next == link)
    Broken(absl::UnavailableError(absl::StrCat("link to stage ", index + 1, ": ", why.message())));
  if (leader == link)
    Broken(absl::UnavailableError(absl::StrCat("link to stage 0: ", why.message())));
  if (previous == link) previous.reset();
}

void Pipeline::State::SendNext() {
  while (!sending && !outgoing.empty() && !closed) {
    const std::function<void()> send = std::move(outgoing.front());
    outgoing.pop_front();
    send();
  }
}

// A header without activations goes at once, one with them when they are there; in their order.
void Pipeline::State::PassOn(const std::shared_ptr<State>& self,
                             const std::shared_ptr<std::vector<std::byte>>& header, size_t bytes) {
  BALEEN_CHECK(next.has_value());
  if (bytes == 0) return SendHeader(header, -1, 0);
  sending = true;
  outbox.Send(*next, bytes, [self, header, bytes](absl::StatusOr<int> slot) {
    self->sending = false;
    if (self->closed) return;
    if (!slot.ok())
      return self->Broken(absl::UnavailableError(
          absl::StrCat("activations to stage ", self->index + 1, ": ", slot.status().message())));
    self->SendHeader(header, *slot, bytes);
    self->SendNext();
  });
}

void Pipeline::State::SendHeader(const std::shared_ptr<std::vector<std::byte>>& header, int slot,
                                 size_t bytes) {
  ByteWriter out;
  out.PutVector<std::byte>(*header);
  out.Put(int32_t{slot});
  out.Put(uint64_t{bytes});
  auto message = std::make_shared<std::vector<std::byte>>(out.Take());
  const std::span<const std::byte> pieces[] = {*message};
  Send(next, kBatchMessage, pieces, [message](const absl::Status&) {});
}

void Pipeline::State::ConnectTo(const worker::MemberInfo& member, std::optional<LinkId>& link) {
  auto connected = links.Connect({.name = absl::StrCat("stage ", member.index),
                                  .transport_address = member.transport_address,
                                  .incarnation = member.incarnation});
  if (connected.ok())
    link = *connected;
  else
    Broken(connected.status());
}

void Pipeline::State::Send(std::optional<LinkId> link, uint8_t type,
                           std::span<const std::span<const std::byte>> pieces,
                           LinkTable::Done done) {
  if (closed) return done(absl::CancelledError("pipeline closed"));
  BALEEN_CHECK(link.has_value());
  links.Send(*link, type, {}, pieces, std::move(done));
}

Pipeline::Pipeline(LinkTable& links, int index, const ActivationMemory& memory, Callbacks callbacks)
    : state_(std::make_shared<State>(links, index, memory, std::move(callbacks))) {
  links.transport().Post([state = state_] {
    for (const uint8_t type : {kBatchMessage, kReportMessage, kSlotsMessage, kSlotFreeMessage})
      state->links.SetHandler(
          type, [state, type](LinkId link, std::span<const std::byte>, Buffer message) {
            state->OnMessage(link, type, std::move(message));
          });
    state->links.AddObserver([state](LinkId link, LinkState s, const absl::Status& why) {
      state->OnLink(link, s, why);
    });
  });
}

Pipeline::~Pipeline() {
  Stop();
  state_->links.transport().Post([state = state_] {
    state->closed = true;
    state->outgoing.clear();
    state->outbox.Close();
    state->slots.Close();
  });
}

void Pipeline::Connect(const std::vector<worker::MemberInfo>& members) {
  state_->links.transport().Post([state = state_, members] {
    const auto next = static_cast<size_t>(state->index) + 1;
    if (next < members.size()) state->ConnectTo(members[next], state->next);
    if (state->index > 0) state->ConnectTo(members[0], state->leader);
    state->SetMembers(members);
  });
}

std::byte* Pipeline::ClaimOutbox() { return state_->outbox.Claim(); }

void Pipeline::Stop() { state_->outbox.Stop(); }

void Pipeline::SendBatch(const BatchHeader& header, size_t bytes) {
  auto encoded = std::make_shared<std::vector<std::byte>>(Encode(header));
  state_->links.transport().Post([state = state_, encoded, bytes] {
    state->outgoing.push_back([state, encoded, bytes] { state->PassOn(state, encoded, bytes); });
    state->SendNext();
  });
}

void Pipeline::FreeSlot(int slot) {
  if (slot < 0) return;
  state_->links.transport().Post([state = state_, slot] {
    if (state->previous && !state->closed) state->slots.Free(*state->previous, slot);
  });
}

void Pipeline::Report(StageReport report) {
  if (state_->index == 0) return state_->callbacks.report(std::move(report));
  auto bytes = std::make_shared<std::vector<std::byte>>(Encode(report));
  state_->links.transport().Post([state = state_, bytes] {
    const std::span<const std::byte> pieces[] = {*bytes};
    state->Send(state->leader, kReportMessage, pieces, [bytes](const absl::Status&) {});
  });
}

}  // namespace baleen::prefill_worker
