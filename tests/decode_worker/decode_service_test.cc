// The service in a gRPC server of this process, with a table's place taken by the test.
#include "decode_worker/decode_service.h"

#include <future>
#include <latch>

#include "grpcpp/grpcpp.h"
#include "proto/worker.grpc.pb.h"
#include "testing/status_matchers.h"

namespace baleen::decode_worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kVocab = 1000;

class DecodeServiceTest : public ::testing::Test {
 protected:
  struct Submitted {
    DecodeJob job;
    std::shared_ptr<TokenBuffer> out;
  };
  DecodeServiceTest() {
    grpc::ServerBuilder builder;
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    stub_ = v1::DecodeWorker::NewStub(server_->InProcessChannel({}));
  }
  ~DecodeServiceTest() override { server_->Shutdown(std::chrono::system_clock::now()); }

  static v1::DecodeRequest Request() {
    v1::DecodeRequest request;
    request.set_attempt(42);
    for (uint32_t token : {7, 8, 9}) request.add_prompt_tokens(token);
    request.mutable_sampling()->set_max_new_tokens(5);
    for (int stage : {0, 1}) {
      v1::Member& member = *request.add_prefill();
      member.set_index(stage);
      member.set_incarnation(500 + uint64_t(stage));
      member.set_transport_address("address");
    }
    return request;
  }
  // The status that a call which is refused at once ends with.
  grpc::Status Refused(const v1::DecodeRequest& request) {
    grpc::ClientContext context;
    auto reader = stub_->Decode(&context, request);
    v1::DecodeEvent event;
    EXPECT_FALSE(reader->Read(&event));
    return reader->Finish();
  }

  absl::Status answer_;
  std::promise<Submitted> submitted_;
  std::promise<AttemptId> cancelled_;
  std::unique_ptr<grpc::Service> service_ =
      MakeDecodeService({.submit =
                             [this](DecodeJob job, std::shared_ptr<TokenBuffer> out) {
                               if (answer_.ok())
                                 submitted_.set_value({std::move(job), std::move(out)});
                               return answer_;
                             },
                         .cancel = [this](AttemptId attempt) { cancelled_.set_value(attempt); },
                         .token_limit = kVocab});
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::DecodeWorker::Stub> stub_;
};

TEST_F(DecodeServiceTest, StreamsWhatTheBufferGetsInOrder) {
  grpc::ClientContext context;
  v1::DecodeRequest request = Request();
  request.mutable_sampling()->set_prompt_logprobs(true);
  auto reader = stub_->Decode(&context, request);
  Submitted s = submitted_.get_future().get();
  EXPECT_EQ(s.job.attempt.value, 42u);
  EXPECT_THAT(s.job.prompt, ElementsAre(7, 8, 9));
  EXPECT_EQ(s.job.sampling.max_new_tokens, 5);
  ASSERT_EQ(s.job.prefill.size(), 2u);
  EXPECT_EQ(s.job.prefill[1].incarnation.value, 501u);

  v1::DecodeEvent event;
  s.out->Append({.tokens = {11}, .prompt_logprobs = {{.token = 8, .logprob = -1}}});
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_THAT(event.tokens().tokens(), ElementsAre(11));
  ASSERT_EQ(event.tokens().prompt_logprobs_size(), 2);  // the first token has none, but a place
  EXPECT_EQ(event.tokens().prompt_logprobs(0).token(), 7u);
  EXPECT_EQ(event.tokens().prompt_logprobs(1).token(), 8u);

  s.out->Append(
      {.tokens = {12, 13},
       .logprobs = {{.token = 12, .logprob = -0.5f, .top_tokens = {12}, .top_logprobs = {-0.5f}},
                    {.token = 13, .logprob = -2}},
       .finish = FinishInfo{.reason = engine::FinishReason::kLength,
                            .new_tokens = 3,
                            .cached_tokens = 2,
                            .steps = 1,
                            .accepted_drafts = 1}});
  s.out->Close(absl::OkStatus());
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_THAT(event.tokens().tokens(), ElementsAre(12, 13));
  EXPECT_EQ(event.tokens().logprobs(0).top_tokens(0), 12u);
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.finished().reason(), v1::LENGTH);
  EXPECT_EQ(event.finished().new_tokens(), 3);
  EXPECT_EQ(event.finished().cached_tokens(), 2);
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(DecodeServiceTest, APromptOfOneTokenHasAPlaceInItsLogprobs) {
  v1::DecodeRequest request = Request();
  request.clear_prompt_tokens();
  request.add_prompt_tokens(7);
  request.mutable_sampling()->set_prompt_logprobs(true);
  grpc::ClientContext context;
  auto reader = stub_->Decode(&context, request);
  Submitted s = submitted_.get_future().get();
  v1::DecodeEvent event;
  s.out->Append({.tokens = {11}});
  ASSERT_TRUE(reader->Read(&event));
  ASSERT_EQ(event.tokens().prompt_logprobs_size(), 1);
  EXPECT_EQ(event.tokens().prompt_logprobs(0).token(), 7u);
  s.out->Append({.tokens = {12}});
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.tokens().prompt_logprobs_size(), 0);  // with the first tokens only
  s.out->Close(absl::OkStatus());
  EXPECT_FALSE(reader->Read(&event));
}

TEST_F(DecodeServiceTest, ARefusalKeepsItsCodeAndMessage) {
  answer_ = absl::ResourceExhaustedError("4096 requests wait");
  const grpc::Status status = Refused(Request());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("4096 requests wait"));
}

TEST_F(DecodeServiceTest, RefusesWhatIsMalformed) {
  v1::DecodeRequest request = Request();
  request.add_prompt_tokens(kVocab);
  EXPECT_EQ(Refused(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request = Request();
  request.mutable_prefill(1)->set_index(2);
  EXPECT_THAT(Refused(request).error_message(), HasSubstr("prefill"));
  request = Request();
  request.mutable_sampling()->set_top_p(7);
  EXPECT_THAT(Refused(request).error_message(), HasSubstr("top_p"));
}

TEST_F(DecodeServiceTest, ACancelledCallCancelsTheAttempt) {
  grpc::ClientContext context;
  auto reader = stub_->Decode(&context, Request());
  Submitted s = submitted_.get_future().get();
  context.TryCancel();
  EXPECT_EQ(cancelled_.get_future().get().value, 42u);
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  s.out->Append({.tokens = {1}});  // after the call is gone: harmless
  s.out->Close(absl::OkStatus());
}

TEST_F(DecodeServiceTest, ADeadlineCancelsTheAttempt) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  auto reader = stub_->Decode(&context, Request());
  EXPECT_EQ(cancelled_.get_future().get().value, 42u);
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(DecodeServiceTest, AnErrorEndsTheStreamWithItsCause) {
  grpc::ClientContext context;
  auto reader = stub_->Decode(&context, Request());
  submitted_.get_future().get().out->Close(absl::UnavailableError("decode rank 3 is gone"));
  v1::DecodeEvent event;
  EXPECT_FALSE(reader->Read(&event));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("rank 3"));
}

}  // namespace
}  // namespace baleen::decode_worker
