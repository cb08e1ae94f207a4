#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace baleen::kv_transfer {

// Life of one attempt on one prefill stage.
//
//   kQueued --kScheduled--> kComputing           first pages complete, or the attempt began
//   kComputing --kLastChunk--> kSending          every page of the prompt is complete
//   kSending --kAllSent--> kAwaitRelease         all ChunkDone (and Handoff) flushed
//   kAwaitRelease --kReleased/kPeerLost--> kClosed
//   kQueued, kComputing, kSending --kFailed/kPeerLost--> kDraining
//   kAwaitRelease --kFailed--> kDraining
//   kDraining --kQuiet--> kClosed                no piece of it is posted any more
//
// Source pages are read (by the wire) only before kClosed, which is final (R1 of README.md).
// Nothing is posted in kDraining.
enum class PrefillState : uint8_t {
  kQueued,
  kComputing,
  kSending,
  kAwaitRelease,
  kDraining,
  kClosed
};
enum class PrefillEvent : uint8_t {
  kScheduled,
  kLastChunk,
  kAllSent,
  kReleased,
  kPeerLost,
  kFailed,
  kQuiet
};

inline constexpr std::array kPrefillStates = {PrefillState::kQueued,   PrefillState::kComputing,
                                              PrefillState::kSending,  PrefillState::kAwaitRelease,
                                              PrefillState::kDraining, PrefillState::kClosed};
inline constexpr std::array kPrefillEvents = {PrefillEvent::kScheduled, PrefillEvent::kLastChunk,
                                              PrefillEvent::kAllSent,   PrefillEvent::kReleased,
                                              PrefillEvent::kPeerLost,  PrefillEvent::kFailed,
                                              PrefillEvent::kQuiet};

constexpr const char* Name(PrefillState s) {
  switch (s) {
    case PrefillState::kQueued:
      return "queued";
    case PrefillState::kComputing:
      return "computing";
    case PrefillState::kSending:
      return "sending";
    case PrefillState::kAwaitRelease:
      return "await release";
    case PrefillState::kDraining:
      return "draining";
    case PrefillState::kClosed:
      return "closed";
  }
  return "?";
}

constexpr bool MayPost(PrefillState s) {
  return s == PrefillState::kComputing || s == PrefillState::kSending;
}
constexpr bool HoldsSourcePages(PrefillState s) { return s != PrefillState::kClosed; }

// The state after `event`, or nullopt when the event is illegal in `from`. Pure.
constexpr std::optional<PrefillState> Next(PrefillState from, PrefillEvent event) {
  using enum PrefillState;
  const auto only = [from](PrefillState need, PrefillState to) {
    return from == need ? std::optional(to) : std::nullopt;
  };
  const bool live = from == kQueued || from == kComputing || from == kSending;
  switch (event) {
    case PrefillEvent::kScheduled:
      return only(kQueued, kComputing);
    case PrefillEvent::kLastChunk:
      return only(kComputing, kSending);
    case PrefillEvent::kAllSent:
      return only(kSending, kAwaitRelease);
    case PrefillEvent::kReleased:
      return only(kAwaitRelease, kClosed);
    case PrefillEvent::kPeerLost:
      if (live) return kDraining;
      return only(kAwaitRelease, kClosed);
    case PrefillEvent::kFailed:
      return live || from == kAwaitRelease ? std::optional(kDraining) : std::nullopt;
    case PrefillEvent::kQuiet:
      return only(kDraining, kClosed);
  }
  return std::nullopt;
}

}  // namespace baleen::kv_transfer
