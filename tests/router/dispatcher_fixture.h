#pragma once

#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "proto/sampling.pb.h"
#include "router/directory_fixture.h"
#include "router/dispatcher.h"
#include "testing/fake_clock.h"
#include "testing/fake_worker_clients.h"

namespace baleen::router {

using baleen::testing::FakeClock;
using baleen::testing::FakeWorkerClients;

class RecordingSink final : public GenerationSink {
 public:
  void OnTokens(TokenStep step) override {
    tokens.insert(tokens.end(), step.tokens.begin(), step.tokens.end());
    cached_tokens = step.cached_tokens;
  }
  void OnFinished(const FinishInfo&) override { ++finished; }
  void OnError(absl::Status status) override { errors.push_back(std::move(status)); }
  bool quiet() const { return tokens.empty() && finished == 0 && errors.empty(); }

  std::vector<uint32_t> tokens;
  int cached_tokens = 0;
  int finished = 0;
  std::vector<absl::Status> errors;
};

// A dispatcher whose workers are played by the test, and whose time stands still.
class DispatcherFixture : public ::testing::Test {
 protected:
  void AddPair(int n) {
    prefill_.push_back(AddReady(directory_, WorkerRole::kPrefill, absl::StrCat("p", n), 10 + n));
    decode_.push_back(AddReady(directory_, WorkerRole::kDecode, absl::StrCat("d", n), 20 + n));
  }
  absl::StatusOr<std::shared_ptr<RequestHandle>> Submit(int prompt_tokens = 3) {
    return dispatcher_.Submit({.prompt = std::make_shared<std::vector<uint32_t>>(prompt_tokens, 7u),
                               .sampling = std::make_shared<v1::SamplingParams>(),
                               .max_new_tokens = 10,
                               .received = clock_.Now()},
                              sink_);
  }
  FakeWorkerClients::Call& P(size_t i = 0) { return clients_.prefills.at(i); }
  FakeWorkerClients::Call& D(size_t i = 0) { return clients_.decodes.at(i); }
  void EmitToken(FakeWorkerClients::Call& call, uint32_t token) {
    call.decode->OnTokens(call.id(), {.tokens = {token}});
  }
  // Nothing assigned, queued or live.
  void ExpectQuiet() {
    const auto view = directory_.View();
    for (const auto* groups : {&view->prefill, &view->decode})
      for (const GroupView& g : *groups)
        for (const Assigned& a : g.assigned) {
          EXPECT_EQ(a.requests, 0) << g.identity->name;
          EXPECT_EQ(a.tokens, 0) << g.identity->name;
        }
    EXPECT_EQ(dispatcher_.live(), 0);
    EXPECT_EQ(metrics_.attempts.Value(), 0);
    EXPECT_EQ(metrics_.queue_length.Value(), 0);
  }

  FakeClock clock_;
  Metrics registry_;
  RouterMetrics metrics_{registry_};
  WorkerDirectory directory_{{}, {}, clock_};
  FakeWorkerClients clients_;
  Dispatcher dispatcher_{{.max_queued = 2}, directory_, clients_, clock_, metrics_};
  std::shared_ptr<RecordingSink> sink_ = std::make_shared<RecordingSink>();
  std::vector<GroupId> prefill_, decode_;
};

}  // namespace baleen::router
