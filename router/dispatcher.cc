#include "router/dispatcher.h"

#include <algorithm>

#include "common/check.h"
#include "router/flight.h"
#include "router/placement/placement_round.h"

namespace baleen::router {
namespace {

// Retries under way: a handful always, and a fifth of what runs (no retry storms).
constexpr int kRetryFloor = 4;
constexpr int kLiveRequestsPerRetry = 5;

}  // namespace

Dispatcher::Dispatcher(Options options, WorkerDirectory& directory, WorkerClients& clients,
                       const Clock& clock, RouterMetrics& metrics)
    : options_(options),
      directory_(directory),
      clients_(clients),
      clock_(clock),
      metrics_(metrics) {
  directory_.SetListener(this);
}

Dispatcher::~Dispatcher() = default;

absl::StatusOr<std::shared_ptr<RequestHandle>> Dispatcher::Submit(
    DispatchRequest request, std::shared_ptr<GenerationSink> sink) {
  auto flight = std::make_shared<Flight>(*this, std::move(request), std::move(sink));
  Enqueue(flight);
  Pump();
  // The queue being full is no reason to refuse one that did not have to wait.
  if (!BeyondQueue(flight.get()) || !flight->Withdraw()) return flight;
  Forget(flight);
  return absl::ResourceExhaustedError("no worker is free and the queue is full; try again later");
}

bool Dispatcher::RetryAllowed() const {
  return live_retries_ < kRetryFloor + live() / kLiveRequestsPerRetry;
}

bool Dispatcher::Retry(const std::shared_ptr<Flight>& flight) {
  const auto placement = Place(*directory_.View(), flight->Wish(), options_.placement, Decision());
  if (!placement) return false;
  ++placed_;
  metrics_.retries.Increment();
  return flight->Begin(*placement);
}

void Dispatcher::Enqueue(std::shared_ptr<Flight> flight) {
  BALEEN_CHECK(flight->MarkQueued());  // nobody else knows it yet
  MutexLock lock(mu_);
  flights_.insert(flight);
  queue_.push_back(std::move(flight));
  metrics_.queue_length.Set(static_cast<double>(queue_.size()));
}

bool Dispatcher::Unqueue(const Flight* flight) {
  MutexLock lock(mu_);
  const auto it = std::find_if(queue_.begin(), queue_.end(),
                               [&](const auto& queued) { return queued.get() == flight; });
  if (it == queue_.end()) return false;
  queue_.erase(it);
  metrics_.queue_length.Set(static_cast<double>(queue_.size()));
  return true;
}

bool Dispatcher::BeyondQueue(const Flight* flight) const {
  MutexLock lock(mu_);
  const auto bound = queue_.begin() + std::min<int64_t>(std::max(options_.max_queued, 0),
                                                        static_cast<int64_t>(queue_.size()));
  return std::any_of(bound, queue_.end(),
                     [&](const auto& queued) { return queued.get() == flight; });
}

void Dispatcher::Pump() {
  std::vector<std::shared_ptr<Flight>> waiting;
  {
    MutexLock lock(mu_);
    waiting.assign(queue_.begin(), queue_.end());
  }
  if (waiting.empty()) return;
  const TimePoint now = clock_.Now();
  PlacementRound round(*directory_.View(), options_.placement);
  for (const auto& flight : waiting) {
    const PlacementRequest wish = flight->Wish();
    if (round.Hopeless(wish)) continue;
    const bool keep = now - flight->accepted() >= options_.queue_timeout / 2;
    const auto placement = round.Next(wish, keep, Decision());
    if (!placement || !Unqueue(flight.get())) continue;  // another thread was quicker
    ++placed_;
    RouterMetrics::Observe(metrics_.queue_seconds, now - flight->accepted());
    flight->Begin(*placement);
  }
}

void Dispatcher::Tick() {
  const TimePoint oldest = clock_.Now() - options_.queue_timeout;
  std::vector<std::shared_ptr<Flight>> expired;
  {
    MutexLock lock(mu_);
    for (const auto& flight : queue_)
      if (flight->accepted() <= oldest) expired.push_back(flight);
  }
  for (const auto& flight : expired) {
    Unqueue(flight.get());
    metrics_.CountRejection("queue_timeout");
    flight->Fail(absl::UnavailableError("no prefill and decode worker became ready in time"),
                 RequestEvent::kQueueTimeout);
  }
  Pump();
}

int Dispatcher::live() const {
  MutexLock lock(mu_);
  return static_cast<int>(flights_.size());
}

std::vector<std::shared_ptr<Flight>> Dispatcher::Live() const {
  MutexLock lock(mu_);
  return {flights_.begin(), flights_.end()};
}

void Dispatcher::FailAll(absl::string_view why) {
  for (const auto& flight : Live()) flight->Fail(absl::UnavailableError(why));
}

void Dispatcher::Forget(const std::shared_ptr<Flight>& flight) {
  Unqueue(flight.get());
  if (flight->retried()) --live_retries_;
  MutexLock lock(mu_);
  flights_.erase(flight);
}

void Dispatcher::OnClusterChanged() { Pump(); }

void Dispatcher::OnGroupDead(GroupId group, absl::string_view why) {
  for (const auto& flight : Live()) flight->OnGroupDead(group, why);
}

}  // namespace baleen::router
