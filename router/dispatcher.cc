#include "router/dispatcher.h"

#include <algorithm>

#include "common/check.h"
#include "router/flight.h"

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
  bool must_wait = false;
  {
    MutexLock lock(mu_);
    must_wait = !queue_.empty();
    if (must_wait && static_cast<int>(queue_.size()) >= options_.max_queued)
      return absl::ResourceExhaustedError("the queue is full; try again later");
    flights_.insert(flight);
  }
  if (!must_wait) {
    if (const auto placement = TryPlace(*flight); placement && flight->Begin(*placement)) {
      RouterMetrics::Observe(metrics_.queue_seconds, Duration::zero());
      return flight;
    }
    if (options_.max_queued <= 0) {
      Forget(flight);
      return absl::ResourceExhaustedError("no worker is free and the queue is full");
    }
  }
  Enqueue(flight);
  Pump();  // a pair may have become ready meanwhile
  return flight;
}

std::optional<Placement> Dispatcher::TryPlace(const Flight& flight) {
  const PolicyInput input{.sequence = sequence_++, .random = RandomId()};
  return Place(*directory_.View(), flight.Wish(), options_.placement, input);
}

bool Dispatcher::RetryAllowed() const {
  return live_retries_ < kRetryFloor + live() / kLiveRequestsPerRetry;
}

bool Dispatcher::Retry(const std::shared_ptr<Flight>& flight) {
  const auto placement = TryPlace(*flight);
  if (!placement) return false;
  metrics_.retries.Increment();
  return flight->Begin(*placement);
}

void Dispatcher::Enqueue(std::shared_ptr<Flight> flight) {
  if (!flight->MarkQueued()) return;
  MutexLock lock(mu_);
  queue_.push_back(std::move(flight));
  metrics_.queue_length.Set(static_cast<double>(queue_.size()));
}

void Dispatcher::Unqueue(const Flight* flight) {
  MutexLock lock(mu_);
  const auto it = std::find_if(queue_.begin(), queue_.end(),
                               [&](const auto& queued) { return queued.get() == flight; });
  if (it != queue_.end()) queue_.erase(it);
  metrics_.queue_length.Set(static_cast<double>(queue_.size()));
}

void Dispatcher::Pump() {
  while (true) {
    std::shared_ptr<Flight> front;
    {
      MutexLock lock(mu_);
      if (queue_.empty()) return;
      front = queue_.front();
    }
    const auto placement = TryPlace(*front);
    if (!placement) return;
    {
      MutexLock lock(mu_);
      if (queue_.empty() || queue_.front() != front) continue;  // another thread was quicker
      queue_.pop_front();
      metrics_.queue_length.Set(static_cast<double>(queue_.size()));
    }
    RouterMetrics::Observe(metrics_.queue_seconds, clock_.Now() - front->accepted());
    front->Begin(*placement);
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
