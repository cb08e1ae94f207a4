#include "prefill_worker/prefill_service.h"

#include <gtest/gtest.h>

#include "grpcpp/create_channel.h"
#include "grpcpp/impl/service_type.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "proto/worker.grpc.pb.h"
#include "testing/event_log.h"

namespace baleen::prefill_worker {
namespace {

using baleen::testing::EventLog;

// The service behind a real gRPC server; the leader's part is played by the test.
class PrefillServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    service_ = MakePrefillService(
        {.submit =
             [this](PrefillJob job, std::shared_ptr<PrefillSink> sink) {
               if (!accept_.ok()) return accept_;
               job_ = std::move(job);
               sink_ = std::move(sink);
               log_.Add("submitted");
               return absl::OkStatus();
             },
         .cancel = [this](AttemptId id) { log_.Add("cancelled " + std::to_string(id.value)); },
         .token_limit = 100});
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    stub_ = v1::PrefillWorker::NewStub(grpc::CreateChannel("127.0.0.1:" + std::to_string(port),
                                                           grpc::InsecureChannelCredentials()));
  }
  void TearDown() override { server_->Shutdown(std::chrono::system_clock::now()); }

  static v1::PrefillRequest Request() {
    v1::PrefillRequest request;
    request.set_attempt(7);
    for (uint32_t token : {0, 5, 99}) request.add_prompt_tokens(token);
    request.mutable_sampling()->set_temperature(0);
    request.mutable_decode()->set_incarnation(42);
    return request;
  }
  // The status of a request that is refused.
  grpc::Status Refusal(const v1::PrefillRequest& request) {
    grpc::ClientContext context;
    auto reader = stub_->Prefill(&context, request);
    v1::PrefillEvent event;
    EXPECT_FALSE(reader->Read(&event));
    return reader->Finish();
  }

  absl::Status accept_;
  EventLog log_;
  PrefillJob job_;
  std::shared_ptr<PrefillSink> sink_;
  std::unique_ptr<grpc::Service> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::PrefillWorker::Stub> stub_;
};

TEST_F(PrefillServiceTest, PassesTheJobOnAndStreamsWhatBecomesOfIt) {
  grpc::ClientContext context;
  auto reader = stub_->Prefill(&context, Request());
  ASSERT_TRUE(log_.WaitFor("submitted"));
  EXPECT_EQ(job_.attempt.value, 7u);
  EXPECT_EQ(job_.prompt, (std::vector<int32_t>{0, 5, 99}));
  EXPECT_EQ(job_.decode.value, 42u);
  EXPECT_TRUE(job_.use_cache);
  v1::SamplingParams sampling;
  ASSERT_TRUE(sampling.ParseFromString(job_.sampling));
  EXPECT_EQ(sampling.temperature(), 0);
  sink_->Started(64);
  sink_->HandedOff();
  sink_->Finished(absl::OkStatus());
  v1::PrefillEvent event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.started().cached_tokens(), 64);
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_TRUE(event.has_handed_off());
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(PrefillServiceTest, PromptLogprobsNeedEveryRow) {
  grpc::ClientContext context;
  auto request = Request();
  request.mutable_sampling()->set_prompt_logprobs(true);
  auto reader = stub_->Prefill(&context, request);
  ASSERT_TRUE(log_.WaitFor("submitted"));
  EXPECT_FALSE(job_.use_cache);
  sink_->Finished(absl::OkStatus());
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(PrefillServiceTest, ARouterThatLeavesCancelsAndTheSinkOutlivesTheCall) {
  {
    grpc::ClientContext context;
    auto reader = stub_->Prefill(&context, Request());
    ASSERT_TRUE(log_.WaitFor("submitted"));
    context.TryCancel();
    EXPECT_FALSE(reader->Finish().ok());
  }
  EXPECT_TRUE(log_.WaitFor("cancelled 7"));
  sink_->HandedOff();
  sink_->Finished(absl::CancelledError("late"));
}

TEST_F(PrefillServiceTest, RefusalsKeepTheirCodeAndMessage) {
  accept_ = absl::ResourceExhaustedError("prefill queue is full");
  const grpc::Status status = Refusal(Request());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(status.error_message(), "prefill queue is full");
}

TEST_F(PrefillServiceTest, BadRequestsNameTheField) {
  auto no_attempt = Request();
  no_attempt.clear_attempt();
  EXPECT_EQ(Refusal(no_attempt).error_message(), "attempt: 0");
  auto empty = Request();
  empty.clear_prompt_tokens();
  EXPECT_EQ(Refusal(empty).error_message(), "prompt_tokens: empty");
  auto outside = Request();
  outside.add_prompt_tokens(100);
  EXPECT_EQ(Refusal(outside).error_message(),
            "prompt_tokens: 100 is not below the vocabulary's 100");
}

}  // namespace
}  // namespace baleen::prefill_worker
