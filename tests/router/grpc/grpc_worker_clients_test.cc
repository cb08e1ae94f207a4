#include "router/grpc/grpc_worker_clients.h"

#include "common/mutex.h"
#include "proto/sampling.pb.h"
#include "router/router_fixture.h"

namespace baleen::router {
namespace {

// Counts what comes on both legs.
class Recorder final : public PrefillEvents, public DecodeEvents {
 public:
  void OnPrefillStarted(AttemptId, int) override { Count(&started_); }
  void OnHandedOff(AttemptId) override { Count(&handed_off_); }
  void OnPrefillDone(AttemptId, absl::Status status) override { Done(std::move(status)); }
  void OnTokens(AttemptId, TokenStep step) override {
    MutexLock lock(mu_);
    steps.push_back(std::move(step));
  }
  void OnFinished(AttemptId, FinishInfo info) override {
    MutexLock lock(mu_);
    finish = info;
  }
  void OnDecodeDone(AttemptId, absl::Status status) override { Done(std::move(status)); }

  std::vector<absl::Status> done() {
    MutexLock lock(mu_);
    return done_;
  }
  int handed_off() const { return handed_off_; }
  std::vector<TokenStep> steps;  // after done
  FinishInfo finish;

 private:
  void Count(std::atomic<int>* n) { ++*n; }
  void Done(absl::Status status) {
    MutexLock lock(mu_);
    done_.push_back(std::move(status));
  }
  Mutex mu_;
  std::vector<absl::Status> done_;
  std::atomic<int> started_{0}, handed_off_{0};
};

class GrpcWorkerClientsTest : public RouterFixture {
 protected:
  void SetUp() override {
    Start();
    const auto view = server_->context().directory.View();
    prefill_ = view->prefill[0].identity;
    decode_ = view->decode[0].identity;
    input_.attempt = AttemptId{7};
    input_.prompt = std::make_shared<std::vector<uint32_t>>(100000, 5u);
    input_.sampling = std::make_shared<v1::SamplingParams>();
  }
  std::shared_ptr<Leg> StartDecode() {
    auto leg = clients_->Decode(decode_->members[0], *prefill_, input_, events_);
    leg->Start();
    return leg;
  }
  bool Done() {
    return FakeWorker::Eventually([&] { return !events_->done().empty(); });
  }
  std::shared_ptr<const GroupIdentity> prefill_, decode_;
  AttemptInput input_;
  std::shared_ptr<Recorder> events_ = std::make_shared<Recorder>();
  std::unique_ptr<GrpcWorkerClients> clients_ = GrpcWorkerClients::Create();
};

TEST_F(GrpcWorkerClientsTest, ADecodeStreamBringsTokensLogprobsAndTheFinish) {
  v1::Tokens step = Step({5, 6});
  v1::TokenLogprob* logprob = step.add_logprobs();
  logprob->set_token(5);
  logprob->set_logprob(-0.5f);
  logprob->add_top_tokens(9);
  logprob->add_top_logprobs(-0.25f);
  worker_->SetDecode({.steps = {step}, .finish = v1::LENGTH, .cached_tokens = 3});
  StartDecode();
  ASSERT_TRUE(Done());
  EXPECT_TRUE(events_->done()[0].ok());
  ASSERT_EQ(events_->steps.size(), 1u);
  EXPECT_EQ(events_->steps[0].tokens, (std::vector<uint32_t>{5, 6}));
  EXPECT_EQ(events_->steps[0].logprobs[0].top[0].first, 9u);
  EXPECT_EQ(events_->finish.reason, TokenFinish::kLength);
  EXPECT_EQ(events_->finish.cached_tokens, 3);
  EXPECT_EQ(worker_->decode_requests()[0].prompt_tokens_size(), 100000);
}

TEST_F(GrpcWorkerClientsTest, CancellingEndsTheStreamAtTheWorker) {
  worker_->SetDecode({.hang = true});
  const auto leg = StartDecode();
  ASSERT_TRUE(FakeWorker::Eventually([&] { return worker_->running() == 1; }));
  leg->Cancel();
  ASSERT_TRUE(Done());
  EXPECT_EQ(events_->done()[0].code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(FakeWorker::Eventually([&] { return worker_->decodes_cancelled() == 1; }));
}

TEST_F(GrpcWorkerClientsTest, CancelledBeforeTheStartIsCancelled) {
  auto leg = clients_->Prefill(*prefill_, decode_->members[0], input_, events_);
  leg->Cancel();
  leg->Start();
  ASSERT_TRUE(Done());
  EXPECT_EQ(events_->done()[0].code(), absl::StatusCode::kCancelled);
}

TEST_F(GrpcWorkerClientsTest, AWorkerThatIsNotThereIsUnavailable) {
  WorkerMember nobody = decode_->members[0];
  nobody.grpc_address = "127.0.0.1:1";
  clients_->Decode(nobody, *prefill_, input_, events_)->Start();
  ASSERT_TRUE(Done());
  EXPECT_EQ(events_->done()[0].code(), absl::StatusCode::kUnavailable);
}

TEST_F(GrpcWorkerClientsTest, ShutdownWaitsForTheLastEvent) {
  worker_->SetDecode({.hang = true});
  for (int i = 0; i < 8; ++i) StartDecode();
  clients_->Shutdown();
  EXPECT_EQ(events_->done().size(), 8u);
}

}  // namespace
}  // namespace baleen::router
