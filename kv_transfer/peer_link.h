#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace baleen::kv_transfer {

// Life of the link between this process and one life of a peer process.
//
//   kDown --kConnect--> kConnecting        we open an endpoint, or the peer's Hello arrived
//   kConnecting --kAccepted--> kProbing    fingerprints equal, both Hellos answered
//   kProbing --kProbeOk--> kUp             a put arrived with the right content
//   kUp --kSilent--> kSuspect              no word for half a lease: running work goes on
//   kSuspect --kHeard--> kUp
//   open states --kFailed--> kFenced       refused, wire error, lease over, closed by us
//   kFenced --kForgotten--> kDown          nothing of it is outstanding any more
//
// kFenced: the endpoint is closed by force and every frame of this life is dropped. Whether memory
// the peer could write is reusable then is a separate question (Transport::Fence,
// LinkTable::Settled).
enum class LinkState : uint8_t { kDown, kConnecting, kProbing, kUp, kSuspect, kFenced };
enum class LinkEvent : uint8_t {
  kConnect,
  kAccepted,
  kProbeOk,
  kSilent,
  kHeard,
  kFailed,
  kForgotten
};

inline constexpr std::array kLinkStates = {LinkState::kDown,    LinkState::kConnecting,
                                           LinkState::kProbing, LinkState::kUp,
                                           LinkState::kSuspect, LinkState::kFenced};
inline constexpr std::array kLinkEvents = {
    LinkEvent::kConnect, LinkEvent::kAccepted, LinkEvent::kProbeOk,  LinkEvent::kSilent,
    LinkEvent::kHeard,   LinkEvent::kFailed,   LinkEvent::kForgotten};

constexpr const char* Name(LinkState s) {
  switch (s) {
    case LinkState::kDown:
      return "down";
    case LinkState::kConnecting:
      return "connecting";
    case LinkState::kProbing:
      return "probing";
    case LinkState::kUp:
      return "up";
    case LinkState::kSuspect:
      return "suspect";
    case LinkState::kFenced:
      return "fenced";
  }
  return "?";
}

constexpr const char* Name(LinkEvent e) {
  switch (e) {
    case LinkEvent::kConnect:
      return "connect";
    case LinkEvent::kAccepted:
      return "accepted";
    case LinkEvent::kProbeOk:
      return "probe ok";
    case LinkEvent::kSilent:
      return "silent";
    case LinkEvent::kHeard:
      return "heard";
    case LinkEvent::kFailed:
      return "failed";
    case LinkEvent::kForgotten:
      return "forgotten";
  }
  return "?";
}

constexpr bool IsOpen(LinkState s) { return s != LinkState::kDown && s != LinkState::kFenced; }
// Messages of workers may be sent and are delivered.
constexpr bool CarriesMessages(LinkState s) {
  return s == LinkState::kProbing || s == LinkState::kUp || s == LinkState::kSuspect;
}
// Pages may be put.
constexpr bool CarriesPages(LinkState s) { return s == LinkState::kUp || s == LinkState::kSuspect; }

// The state after `event`, or nullopt when the event is illegal in `from`. Pure.
constexpr std::optional<LinkState> Next(LinkState from, LinkEvent event) {
  using enum LinkState;
  const auto only = [from](LinkState need, LinkState to) {
    return from == need ? std::optional(to) : std::nullopt;
  };
  switch (event) {
    case LinkEvent::kConnect:
      return only(kDown, kConnecting);
    case LinkEvent::kAccepted:
      return only(kConnecting, kProbing);
    case LinkEvent::kProbeOk:
      return only(kProbing, kUp);
    case LinkEvent::kSilent:
      return only(kUp, kSuspect);
    case LinkEvent::kHeard:
      return only(kSuspect, kUp);
    case LinkEvent::kFailed:
      return IsOpen(from) ? std::optional(kFenced) : std::nullopt;
    case LinkEvent::kForgotten:
      return only(kFenced, kDown);
  }
  return std::nullopt;
}

}  // namespace baleen::kv_transfer
