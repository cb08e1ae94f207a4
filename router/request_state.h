#pragma once

#include <cstdint>
#include <optional>

namespace baleen::router {

// Life of one request in the router.
//
//   kReceived --kEnqueued--> kQueued
//   kReceived, kQueued, kRetrying --kPlaced--> kDispatched      (a new attempt id each time)
//   kDispatched --kFirstToken--> kStreaming
//   kDispatched --kRetryableError--> kRetrying                  (never once a token was sent)
//   kDispatched, kStreaming --kFinished/kStopMatched--> kDone
//   kQueued --kQueueTimeout--> kFailed
//   any live state --kFatalError--> kFailed, --kClientGone--> kCancelled
//
// An attempt (two streams, one to each leg) exists exactly in kDispatched and kStreaming. Leaving
// them by anything but kFinished aborts both legs.
enum class RequestState : uint8_t {
  kReceived,
  kQueued,
  kDispatched,
  kStreaming,
  kRetrying,
  kDone,
  kFailed,
  kCancelled
};
enum class RequestEvent : uint8_t {
  kEnqueued,
  kPlaced,
  kFirstToken,
  kFinished,
  kStopMatched,  // the router found a stop string: done, but the workers do not know
  kRetryableError,
  kFatalError,
  kQueueTimeout,
  kClientGone
};

constexpr bool HasAttempt(RequestState s) {
  return s == RequestState::kDispatched || s == RequestState::kStreaming;
}
constexpr bool IsFinal(RequestState s) {
  return s == RequestState::kDone || s == RequestState::kFailed || s == RequestState::kCancelled;
}

// The state after `event`, or nullopt when the event is illegal in `from`. Pure.
constexpr std::optional<RequestState> Next(RequestState from, RequestEvent event) {
  using enum RequestState;
  if (IsFinal(from)) return std::nullopt;
  switch (event) {
    case RequestEvent::kEnqueued:
      return from == kReceived ? std::optional(kQueued) : std::nullopt;
    case RequestEvent::kPlaced:
      return HasAttempt(from) ? std::nullopt : std::optional(kDispatched);
    case RequestEvent::kFirstToken:
      return from == kDispatched ? std::optional(kStreaming) : std::nullopt;
    case RequestEvent::kFinished:
    case RequestEvent::kStopMatched:
      return HasAttempt(from) ? std::optional(kDone) : std::nullopt;
    case RequestEvent::kRetryableError:
      return from == kDispatched ? std::optional(kRetrying) : std::nullopt;
    case RequestEvent::kFatalError:
      return kFailed;
    case RequestEvent::kQueueTimeout:
      return from == kQueued ? std::optional(kFailed) : std::nullopt;
    case RequestEvent::kClientGone:
      return kCancelled;
  }
  return std::nullopt;
}

}  // namespace baleen::router
