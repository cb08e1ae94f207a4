#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace baleen::decode_worker {

// Life of one attempt on a decode rank. kv_transfer/grant_state.h is the part that KvReceiver
// sees.
//
//   kWaiting --kRoom--> kGranted --kManifestComplete--> kReady --kScheduled--> kRunning
//   kRunning, kReady --kFinished--> kDone   (kReady: the first token already ends the request)
//   kWaiting, kReady, kRunning --kAborted--> kDone
//   kGranted --kAborted--> kQuarantine --kSettled--> kDone
//
// kGranted is KvReceiver's kGranted and kReceiving: nothing here depends on the difference.
// kAborted is everything that ends an attempt early: the client or the router left, its time is
// over, prefill or its link failed. A running sequence is aborted between two steps, by the step
// thread. kQuarantine exists because a remote writer may still write the pages; only kSettled
// (drain acknowledged, or a valid fence) ends it. kDone is final.
enum class State : uint8_t { kWaiting, kGranted, kReady, kRunning, kQuarantine, kDone };
enum class Event : uint8_t { kRoom, kManifestComplete, kScheduled, kFinished, kAborted, kSettled };

inline constexpr std::array kStates = {State::kWaiting, State::kGranted,    State::kReady,
                                       State::kRunning, State::kQuarantine, State::kDone};
inline constexpr std::array kEvents = {Event::kRoom,      Event::kManifestComplete,
                                       Event::kScheduled, Event::kFinished,
                                       Event::kAborted,   Event::kSettled};

constexpr const char* Name(State s) {
  switch (s) {
    case State::kWaiting:
      return "waiting";
    case State::kGranted:
      return "granted";
    case State::kReady:
      return "ready";
    case State::kRunning:
      return "running";
    case State::kQuarantine:
      return "quarantine";
    case State::kDone:
      return "done";
  }
  return "?";
}

constexpr const char* Name(Event e) {
  switch (e) {
    case Event::kRoom:
      return "room";
    case Event::kManifestComplete:
      return "manifest complete";
    case Event::kScheduled:
      return "scheduled";
    case Event::kFinished:
      return "finished";
    case Event::kAborted:
      return "aborted";
    case Event::kSettled:
      return "settled";
  }
  return "?";
}

// The references on the pages of an attempt (R1 of kv_transfer/README.md): a page is free when it
// has neither.
constexpr bool HoldsRequestReference(State s) {
  return s == State::kGranted || s == State::kReady || s == State::kRunning;
}
constexpr bool HoldsWriterReference(State s) {
  return s == State::kGranted || s == State::kQuarantine;
}

// The state after `event`, or nullopt when the event is illegal in `from`. Pure: the caller does
// the work that a change implies.
constexpr std::optional<State> Next(State from, Event event) {
  using enum State;
  const auto only = [from](State need, State to) {
    return from == need ? std::optional(to) : std::nullopt;
  };
  switch (event) {
    case Event::kRoom:
      return only(kWaiting, kGranted);
    case Event::kManifestComplete:
      return only(kGranted, kReady);
    case Event::kScheduled:
      return only(kReady, kRunning);
    case Event::kFinished:
      return from == kReady ? std::optional(kDone) : only(kRunning, kDone);
    case Event::kAborted:
      if (from == kGranted) return kQuarantine;
      return from == kQuarantine || from == kDone ? std::nullopt : std::optional(kDone);
    case Event::kSettled:
      return only(kQuarantine, kDone);
  }
  return std::nullopt;
}

}  // namespace baleen::decode_worker
