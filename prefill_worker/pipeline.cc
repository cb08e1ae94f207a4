#include "prefill_worker/pipeline.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/log.h"

namespace baleen::prefill_worker {

using kv_transfer::Buffer;
using kv_transfer::LinkId;
using kv_transfer::LinkState;
using kv_transfer::LinkTable;

// Lives on the transport's thread; the tasks posted there keep it alive.
struct Pipeline::State {
  State(LinkTable& links, int index, Callbacks callbacks)
      : links(links), index(index), callbacks(std::move(callbacks)) {}

  void OnMessage(LinkId link, uint8_t type, Buffer message);
  void SetMembers(const std::vector<worker::MemberInfo>& infos);
  void OnBatch(Buffer message);
  void OnReport(Buffer message);
  void OnLink(LinkId link, LinkState state, const absl::Status& why);
  void ConnectTo(const worker::MemberInfo& member, std::optional<LinkId>& link);
  void Send(std::optional<LinkId> link, uint8_t type,
            std::span<const std::span<const std::byte>> pieces, LinkTable::Done done);
  void Broken(const absl::Status& why) {
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
  std::optional<LinkId> next, leader;
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
  const bool batch = type == kBatchMessage;
  if (from == members.end() || (batch && from - members.begin() != index - 1)) {
    spdlog::warn("dropped a {} from {}", batch ? "batch" : "report",
                 info ? info->peer_name : "a link that is gone");
    return;
  }
  batch ? OnBatch(std::move(message)) : OnReport(std::move(message));
}

void Pipeline::State::SetMembers(const std::vector<worker::MemberInfo>& infos) {
  for (const worker::MemberInfo& member : infos) members.push_back(member.incarnation);
  for (Early& e : std::exchange(early, {})) OnMessage(e.link, e.type, std::move(e.message));
}

void Pipeline::State::OnBatch(Buffer message) {
  uint32_t header_bytes = 0;
  if (message.size() < sizeof(header_bytes)) return Broken(absl::DataLossError("batch: too short"));
  std::memcpy(&header_bytes, message.data(), sizeof(header_bytes));
  const std::span<const std::byte> rest = message.span().subspan(sizeof(header_bytes));
  if (header_bytes > rest.size()) return Broken(absl::DataLossError("batch: header is cut off"));
  absl::StatusOr<BatchHeader> header = DecodeBatchHeader(rest.first(header_bytes));
  if (!header.ok()) return Broken(header.status());
  if (header->number != last_batch + 1)
    return Broken(
        absl::DataLossError(absl::StrCat("batch ", header->number, " after batch ", last_batch)));
  last_batch = header->number;
  const auto activations = rest.subspan(header_bytes);
  if (!closed) callbacks.batch({*std::move(header), std::move(message), activations});
}

void Pipeline::State::OnReport(Buffer message) {
  absl::StatusOr<StageReport> report = DecodeStageReport(message.span());
  if (!report.ok()) return Broken(report.status());
  if (!closed) callbacks.report(*std::move(report));
}

void Pipeline::State::OnLink(LinkId link, LinkState state, const absl::Status& why) {
  if (state != LinkState::kFenced) return;
  if (next == link)
    Broken(absl::UnavailableError(absl::StrCat("link to stage ", index + 1, ": ", why.message())));
  if (leader == link)
    Broken(absl::UnavailableError(absl::StrCat("link to stage 0: ", why.message())));
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

Pipeline::Pipeline(LinkTable& links, int index, Callbacks callbacks)
    : state_(std::make_shared<State>(links, index, std::move(callbacks))) {
  links.transport().Post([state = state_] {
    for (const uint8_t type : {kBatchMessage, kReportMessage})
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
  state_->links.transport().Post([state = state_] { state->closed = true; });
}

void Pipeline::Connect(const std::vector<worker::MemberInfo>& members) {
  state_->links.transport().Post([state = state_, members] {
    const auto next = static_cast<size_t>(state->index) + 1;
    if (next < members.size()) state->ConnectTo(members[next], state->next);
    if (state->index > 0) state->ConnectTo(members[0], state->leader);
    state->SetMembers(members);
  });
}

void Pipeline::SendBatch(const BatchHeader& header, Buffer activations) {
  // What must stay in place until it is sent.
  struct Message {
    uint32_t header_bytes;
    std::vector<std::byte> header;
    Buffer activations;
  };
  auto message = std::make_shared<Message>();
  message->header = Encode(header);
  message->header_bytes = static_cast<uint32_t>(message->header.size());
  message->activations = std::move(activations);
  state_->links.transport().Post([state = state_, message] {
    const std::span<const std::byte> pieces[] = {
        std::as_bytes(std::span(&message->header_bytes, 1)), message->header,
        message->activations.span()};
    state->Send(state->next, kBatchMessage, pieces, [message](const absl::Status&) {});
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
