#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace baleen::kv_transfer {

// Life of one attempt on a decode rank. KvReceiver runs kGranted to kReady and kQuarantine;
// kWaiting and kRunning belong to the worker.
//
//   kWaiting --kPagesReserved--> kGranted
//   kGranted --kFirstChunk--> kReceiving
//   kGranted, kReceiving --kManifestComplete--> kReady
//   kReady --kScheduled--> kRunning --kFinished--> kDone
//   kWaiting, kReady, kRunning --kFailed--> kDone
//   kGranted, kReceiving --kFailed--> kQuarantine --kWritersSettled--> kDone
//
// (A hand-over without a page to move, all of it cached here, completes from kGranted.) Writers may
// touch the pages exactly in kGranted, kReceiving and kQuarantine; pages taken on entry to kGranted
// are returned on entry to kDone, nowhere else.
enum class DecodeState : uint8_t {
  kWaiting,
  kGranted,
  kReceiving,
  kReady,
  kRunning,
  kQuarantine,
  kDone
};
enum class DecodeEvent : uint8_t {
  kPagesReserved,
  kFirstChunk,
  kManifestComplete,
  kScheduled,
  kFinished,
  kFailed,
  kWritersSettled
};

inline constexpr std::array kDecodeStates = {
    DecodeState::kWaiting, DecodeState::kGranted,    DecodeState::kReceiving, DecodeState::kReady,
    DecodeState::kRunning, DecodeState::kQuarantine, DecodeState::kDone};
inline constexpr std::array kDecodeEvents = {
    DecodeEvent::kPagesReserved, DecodeEvent::kFirstChunk, DecodeEvent::kManifestComplete,
    DecodeEvent::kScheduled,     DecodeEvent::kFinished,   DecodeEvent::kFailed,
    DecodeEvent::kWritersSettled};

constexpr const char* Name(DecodeState s) {
  switch (s) {
    case DecodeState::kWaiting:
      return "waiting";
    case DecodeState::kGranted:
      return "granted";
    case DecodeState::kReceiving:
      return "receiving";
    case DecodeState::kReady:
      return "ready";
    case DecodeState::kRunning:
      return "running";
    case DecodeState::kQuarantine:
      return "quarantine";
    case DecodeState::kDone:
      return "done";
  }
  return "?";
}

constexpr bool HoldsPages(DecodeState s) {
  return s != DecodeState::kWaiting && s != DecodeState::kDone;
}
constexpr bool WritersMayWrite(DecodeState s) {
  return s == DecodeState::kGranted || s == DecodeState::kReceiving ||
         s == DecodeState::kQuarantine;
}

// The state after `event`, or nullopt when the event is illegal in `from`. Pure.
constexpr std::optional<DecodeState> Next(DecodeState from, DecodeEvent event) {
  using enum DecodeState;
  const auto only = [from](DecodeState need, DecodeState to) {
    return from == need ? std::optional(to) : std::nullopt;
  };
  const bool arriving = from == kGranted || from == kReceiving;
  switch (event) {
    case DecodeEvent::kPagesReserved:
      return only(kWaiting, kGranted);
    case DecodeEvent::kFirstChunk:
      return only(kGranted, kReceiving);
    case DecodeEvent::kManifestComplete:
      return arriving ? std::optional(kReady) : std::nullopt;
    case DecodeEvent::kScheduled:
      return only(kReady, kRunning);
    case DecodeEvent::kFinished:
      return only(kRunning, kDone);
    case DecodeEvent::kFailed:
      if (arriving) return kQuarantine;
      return from == kWaiting || from == kReady || from == kRunning ? std::optional(kDone)
                                                                    : std::nullopt;
    case DecodeEvent::kWritersSettled:
      return only(kQuarantine, kDone);
  }
  return std::nullopt;
}

}  // namespace baleen::kv_transfer
