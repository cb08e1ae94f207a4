// The dispatcher under many threads at once; what ThreadSanitizer is for.
#include <deque>
#include <random>
#include <thread>

#include "common/clock.h"
#include "gmock/gmock.h"
#include "proto/sampling.pb.h"
#include "router/directory_fixture.h"
#include "router/dispatcher.h"
#include "testing/status_matchers.h"

namespace baleen::router {
namespace {

// Workers that answer, fail or vanish at random, on threads of their own. The events of one leg
// come one at a time, as a stream's do.
class ChaosClients final : public WorkerClients {
 public:
  ChaosClients(uint32_t seed, int threads) {
    for (int i = 0; i < threads; ++i)
      threads_.emplace_back([this, seed, i] { Work(std::mt19937(seed + uint32_t(i))); });
  }
  ~ChaosClients() override {
    {
      MutexLock lock(mu_);
      stopping_ = true;
    }
    posted_.NotifyAll();
    for (std::thread& t : threads_) t.join();
  }

  std::shared_ptr<Leg> Prefill(const GroupIdentity&, const WorkerMember&, const AttemptInput& input,
                               std::shared_ptr<PrefillEvents> events) override {
    auto leg = std::make_shared<ChaosLeg>(*this);
    leg->next = [id = input.attempt, events](ChaosLeg& self, std::mt19937& rng) {
      if (self.cancelled) return events->OnPrefillDone(id, absl::CancelledError("")), false;
      if (rng() % 20 == 0) return events->OnPrefillDone(id, absl::UnavailableError("p")), false;
      if (++self.steps == 1) return events->OnPrefillStarted(id, 0), true;
      if (self.steps == 2) return events->OnHandedOff(id), true;
      return events->OnPrefillDone(id, absl::OkStatus()), false;
    };
    return leg;
  }
  std::shared_ptr<Leg> Decode(const WorkerMember&, const GroupIdentity&, const AttemptInput& input,
                              std::shared_ptr<DecodeEvents> events) override {
    auto leg = std::make_shared<ChaosLeg>(*this);
    leg->next = [id = input.attempt, events](ChaosLeg& self, std::mt19937& rng) {
      if (self.cancelled) return events->OnDecodeDone(id, absl::CancelledError("")), false;
      if (rng() % 30 == 0) return events->OnDecodeDone(id, absl::AbortedError("d")), false;
      if (++self.steps < 8) return events->OnTokens(id, {.tokens = {5}}), true;
      if (self.steps == 8) return events->OnFinished(id, {}), true;
      return events->OnDecodeDone(id, absl::OkStatus()), false;
    };
    return leg;
  }
  int running() const { return running_; }

 private:
  struct ChaosLeg final : Leg, std::enable_shared_from_this<ChaosLeg> {
    explicit ChaosLeg(ChaosClients& c) : clients(c) {}
    void Start() override {
      ++clients.running_;
      clients.Post(shared_from_this());
    }
    void Cancel() override { cancelled = true; }
    ChaosClients& clients;
    std::function<bool(ChaosLeg&, std::mt19937&)> next;  // false: that was the last event
    std::atomic<bool> cancelled{false};
    int steps = 0;
  };

  void Post(std::shared_ptr<ChaosLeg> leg) {
    {
      MutexLock lock(mu_);
      queue_.push_back(std::move(leg));
    }
    posted_.NotifyOne();
  }
  void Work(std::mt19937 rng) {
    while (true) {
      std::shared_ptr<ChaosLeg> leg;
      {
        MutexLock lock(mu_);
        while (queue_.empty() && !stopping_) posted_.Wait(mu_);
        if (queue_.empty()) return;
        leg = std::move(queue_.front());
        queue_.pop_front();
      }
      if (leg->next(*leg, rng))
        Post(std::move(leg));
      else
        --running_;
    }
  }

  std::atomic<int> running_{0};
  Mutex mu_;
  CondVar posted_;
  std::deque<std::shared_ptr<ChaosLeg>> queue_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;
};

class CountingSink final : public GenerationSink {
 public:
  void OnTokens(TokenStep) override { ++tokens; }
  void OnFinished(const FinishInfo&) override { ++ends; }
  void OnError(absl::Status) override { ++ends; }
  std::atomic<int> tokens{0}, ends{0};
};

struct Submitted {
  std::shared_ptr<CountingSink> sink = std::make_shared<CountingSink>();
  bool cancelled = false;
};

bool Eventually(const std::function<bool()>& condition) {
  const TimePoint deadline = SteadyClock().Now() + std::chrono::seconds(30);
  while (!condition() && SteadyClock().Now() < deadline) std::this_thread::yield();
  return condition();
}

TEST(DispatcherThreads, EverythingIsGivenBackAndEveryRequestEndsOnce) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  Metrics registry;
  RouterMetrics metrics(registry);
  WorkerDirectory directory({.suspect_after = std::chrono::hours(1)}, {}, SteadyClock());
  ChaosClients clients(seed, 3);
  Dispatcher dispatcher({.max_queued = 100000}, directory, clients, SteadyClock(), metrics);
  for (uint64_t i = 0; i < 3; ++i) {
    AddReady(directory, WorkerRole::kPrefill, absl::StrCat("p", i), 10 + i);
    AddReady(directory, WorkerRole::kDecode, absl::StrCat("d", i), 20 + i * 4, 2);
  }
  constexpr int kClients = 4, kEach = 300;
  std::vector<std::vector<Submitted>> all(kClients);
  std::vector<std::thread> threads;
  for (int c = 0; c < kClients; ++c)
    threads.emplace_back([&, c] {
      std::mt19937 rng(seed + 100 + uint32_t(c));
      for (int i = 0; i < kEach; ++i) {
        Submitted& s = all[size_t(c)].emplace_back();
        auto handle = dispatcher.Submit({.prompt = std::make_shared<std::vector<uint32_t>>(3, 5u),
                                         .sampling = std::make_shared<v1::SamplingParams>(),
                                         .max_new_tokens = 8},
                                        s.sink);
        ASSERT_TRUE(handle.ok());
        s.cancelled = rng() % 3 == 0;
        if (s.cancelled) (*handle)->Cancel(CancelReason::kClientGone);
        if (rng() % 16 == 0) dispatcher.Tick();
      }
    });
  std::thread churn([&] {  // a group that restarts again and again
    for (uint64_t life = 1; life < 50; ++life)
      AddReady(directory, WorkerRole::kDecode, "d0", 1000 + life, 2);
  });
  for (std::thread& t : threads) t.join();
  churn.join();
  EXPECT_TRUE(Eventually([&] { return dispatcher.live() == 0 && clients.running() == 0; }));
  EXPECT_EQ(metrics.attempts.Value(), 0);
  const auto view = directory.View();
  for (const auto* groups : {&view->prefill, &view->decode})
    for (const GroupView& g : *groups)
      for (const Assigned& a : g.assigned) EXPECT_EQ(a.requests, 0) << g.identity->name;
  for (const auto& list : all)
    for (const Submitted& s : list)
      EXPECT_TRUE(s.sink->ends == 1 || (s.cancelled && s.sink->ends == 0)) << s.sink->ends;
}

}  // namespace
}  // namespace baleen::router
