#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace baleen::kv_transfer {

// What KvReceiver knows of one grant.
//
//   kGranted --kFirstChunk--> kReceiving
//   kGranted, kReceiving --kManifestComplete--> kReady --kTaken--> kDone
//   kGranted, kReceiving --kFailed--> kQuarantine --kWritersSettled--> kDone
//
// (A hand-over without a page to move, all of it cached at decode, completes from kGranted.) Before
// kReady and in kQuarantine writers may touch the pages; only a complete manifest or settled
// writers end that. What the worker does with a request whose pages are lent is
// decode_worker/request_state.h.
enum class GrantState : uint8_t { kGranted, kReceiving, kReady, kQuarantine, kDone };
enum class GrantEvent : uint8_t {
  kFirstChunk,
  kManifestComplete,
  kTaken,  // by the first step, or given up before it
  kFailed,
  kWritersSettled
};

inline constexpr std::array kGrantStates = {GrantState::kGranted, GrantState::kReceiving,
                                            GrantState::kReady, GrantState::kQuarantine,
                                            GrantState::kDone};
inline constexpr std::array kGrantEvents = {GrantEvent::kFirstChunk, GrantEvent::kManifestComplete,
                                            GrantEvent::kTaken, GrantEvent::kFailed,
                                            GrantEvent::kWritersSettled};

constexpr const char* Name(GrantState s) {
  switch (s) {
    case GrantState::kGranted:
      return "granted";
    case GrantState::kReceiving:
      return "receiving";
    case GrantState::kReady:
      return "ready";
    case GrantState::kQuarantine:
      return "quarantine";
    case GrantState::kDone:
      return "done";
  }
  return "?";
}

// Pages are on their way, and wanted.
constexpr bool Arriving(GrantState s) {
  return s == GrantState::kGranted || s == GrantState::kReceiving;
}
constexpr bool WritersMayWrite(GrantState s) { return Arriving(s) || s == GrantState::kQuarantine; }

// The state after `event`, or nullopt when the event is illegal in `from`. Pure.
constexpr std::optional<GrantState> Next(GrantState from, GrantEvent event) {
  using enum GrantState;
  const auto on = [](bool legal, GrantState to) {
    return legal ? std::optional(to) : std::nullopt;
  };
  switch (event) {
    case GrantEvent::kFirstChunk:
      return on(from == kGranted, kReceiving);
    case GrantEvent::kManifestComplete:
      return on(Arriving(from), kReady);
    case GrantEvent::kTaken:
      return on(from == kReady, kDone);
    case GrantEvent::kFailed:
      return on(Arriving(from), kQuarantine);
    case GrantEvent::kWritersSettled:
      return on(from == kQuarantine, kDone);
  }
  return std::nullopt;
}

}  // namespace baleen::kv_transfer
