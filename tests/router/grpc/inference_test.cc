// The public gRPC API: its messages and its service.
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <future>
#include <thread>

#include "proto/inference.grpc.pb.h"
#include "proto/inference.pb.h"
#include "proto/sampling.pb.h"
#include "router/api/api_error.h"
#include "router/api/tiny_model.h"
#include "router/grpc/inference_proto.h"
#include "router/grpc/inference_service.h"
#include "router/router_fixture.h"
#include "testing/status_matchers.h"

namespace baleen::router {
namespace {

using baleen::testing::IsOk;
using ::testing::HasSubstr;

TEST(InferenceProto, OmittedFieldsAreAbsentNotZero) {
  v1::GenerateRequest proto;
  proto.set_text("x");
  const auto request = FromProto(TinyModel(), proto);
  ASSERT_THAT(request, IsOk());
  EXPECT_EQ(request->sampling->temperature(), TinyModel().default_temperature);
  EXPECT_EQ(request->sampling->top_p(), TinyModel().default_top_p);
  EXPECT_TRUE(request->sampling->has_seed());
  EXPECT_EQ(request->max_new_tokens, 0);
  EXPECT_TRUE(request->output.skip_special);
}

TEST(InferenceProto, BadRequestsNameTheField) {
  v1::GenerateRequest proto;
  EXPECT_EQ(ParamOf(FromProto(TinyModel(), proto).status()), "prompt");
  proto.mutable_token_ids()->add_ids(4096);
  EXPECT_EQ(ParamOf(FromProto(TinyModel(), proto).status()), "token_ids");
  proto.set_text("x");
  proto.mutable_sampling()->set_max_new_tokens(0);
  EXPECT_EQ(ParamOf(FromProto(TinyModel(), proto).status()), "sampling.max_new_tokens");
  proto.mutable_sampling()->set_max_new_tokens(1);
  proto.set_model("gpt");
  EXPECT_EQ(FromProto(TinyModel(), proto).status().code(), absl::StatusCode::kNotFound);
}

TEST(InferenceProto, AnOverlongPromptNamesWhereItWas) {
  const std::string text(size_t{32} << 20, 'x');
  v1::GenerateRequest generate;
  generate.set_text(text);
  EXPECT_EQ(ParamOf(FromProto(TinyModel(), generate).status()), "text");
  v1::ChatRequest chat;
  chat.set_body_json(json{{"messages", {{{"role", "user"}, {"content", text}}}}}.dump());
  EXPECT_EQ(ParamOf(FromProto(TinyModel(), chat).status()), "messages");
  generate.mutable_token_ids()->add_ids(5);
  EXPECT_EQ(FromProto(TinyModel(), generate)->prompt_field, "token_ids");
}

TEST(InferenceProto, PiecesOfACallAreOneEntry) {
  using Kind = chat::OutputEvent::Kind;
  OutputDelta delta;
  delta.events = {{.kind = Kind::kContent, .text = "c"},
                  {.kind = Kind::kToolCallBegin, .call = 0, .text = "f"},
                  {.kind = Kind::kToolArguments, .call = 0, .text = "{}"},
                  {.kind = Kind::kToolCallEnd, .call = 0},
                  {.kind = Kind::kToolCallBegin, .call = 1, .text = "g"}};
  v1::ChatDelta proto;
  ToProto(delta, &proto);
  EXPECT_EQ(proto.content(), "c");
  ASSERT_EQ(proto.tool_calls_size(), 2);
  EXPECT_EQ(proto.tool_calls(0).arguments(), "{}");
  EXPECT_TRUE(proto.tool_calls(0).complete());
  EXPECT_EQ(proto.tool_calls(1).name(), "g");
}

TEST(InferenceProto, TheTextOfAGivenUpCallIsContent) {
  OutputEnding ending{.finish_reason = "length"};
  ending.last.events = {{.kind = chat::OutputEvent::Kind::kContent, .text = "so "}};
  ending.parsed.unparsed = "<call";
  v1::ChatResponse response;
  SetFinish(ending, {}, &response);
  EXPECT_EQ(response.finish().last().content(), "so <call");
}

class InferenceServiceTest : public RouterFixture {
 protected:
  void SetUp() override { Start(); }
  void Connect() {
    grpc::ChannelArguments args;
    args.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // else the client buffers megabytes unread
    stub_ = v1::Inference::NewStub(
        grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->grpc_port()),
                                  grpc::InsecureChannelCredentials(), args));
  }
  grpc::Status Generate(const v1::GenerateRequest& request) {
    Connect();
    grpc::ClientContext context;
    const auto stream = stub_->Generate(&context, request);
    v1::GenerateResponse response;
    while (stream->Read(&response)) {
      if (response.has_finish()) finish_ = response.finish();
      text_ += response.has_finish() ? response.finish().last().text() : response.delta().text();
    }
    return stream->Finish();
  }
  static v1::GenerateRequest Text(const std::string& text) {
    v1::GenerateRequest request;
    request.set_text(text);
    return request;
  }
  std::unique_ptr<v1::Inference::Stub> stub_;
  std::string text_;
  v1::GenerationFinish finish_;
};

TEST_F(InferenceServiceTest, GeneratesTheSameTextAsHttp) {
  worker_->SetDecode(Says("Hello there."));
  ASSERT_TRUE(Generate(Text("x")).ok());
  EXPECT_EQ(text_, "Hello there.");
  EXPECT_EQ(finish_.reason(), "stop");
  EXPECT_EQ(finish_.completion_tokens(), static_cast<int>(Ids("Hello there.").size()) + 1);
  EXPECT_EQ(Post("/v1/completions", {{"prompt", "x"}}).json()["choices"][0]["text"], text_);
  EXPECT_TRUE(Quiet());
}

TEST_F(InferenceServiceTest, StopsAtAStopStringAndFreesTheWorkers) {
  DecodeScript script = Says("one two three");
  script.steps.pop_back();
  script.hang = true;
  worker_->SetDecode(script);
  v1::GenerateRequest request = Text("x");
  request.add_stop("o th");
  ASSERT_TRUE(Generate(request).ok());
  EXPECT_EQ(text_, "one tw");
  EXPECT_EQ(finish_.matched_stop(), "o th");
  EXPECT_TRUE(Quiet());
  EXPECT_EQ(worker_->decodes_cancelled(), 1);
}

TEST_F(InferenceServiceTest, ChatsWithTypedDeltas) {
  worker_->SetDecode(Says("I think.</think>Hello"));
  Connect();
  json body = Chat("Hi");
  body["chat_template_kwargs"] = {{"thinking", true}};
  v1::ChatRequest request;
  request.set_body_json(body.dump());
  grpc::ClientContext context;
  const auto stream = stub_->Chat(&context, request);
  v1::ChatResponse response;
  std::string content, reasoning;
  while (stream->Read(&response)) {
    const v1::ChatDelta& delta =
        response.has_finish() ? response.finish().last() : response.delta();
    content += delta.content();
    reasoning += delta.reasoning();
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(content, "Hello");
  EXPECT_EQ(reasoning, "I think.");
  EXPECT_EQ(response.finish().finish().reason(), "stop");
}

TEST_F(InferenceServiceTest, ErrorsAreStatuses) {
  EXPECT_EQ(Generate(v1::GenerateRequest()).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  worker_->SetDecode({.fail = grpc::Status(grpc::StatusCode::INTERNAL, "bug")});
  const grpc::Status status = Generate(Text("x"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(status.error_message(), HasSubstr("decode worker decode-0: bug"));
  EXPECT_EQ(Generate(Text(std::string(33 << 20, 'x'))).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);  // over max_body_bytes
  EXPECT_TRUE(Quiet());
}

TEST_F(InferenceServiceTest, CancellingTheStreamFreesBothLegs) {
  worker_->SetDecode({.steps = Steps({60}), .hang = true});
  worker_->SetPrefill({.hang = true});
  Connect();
  grpc::ClientContext context;
  const auto stream = stub_->Generate(&context, Text("x"));
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Quiet());
  EXPECT_EQ(worker_->decodes_cancelled(), 1);
  EXPECT_EQ(worker_->prefills_cancelled(), 1);
}

TEST_F(InferenceServiceTest, AbortEndsARequestByItsId) {
  worker_->SetDecode({.steps = Steps({60}), .hang = true});
  Connect();
  v1::GenerateRequest request = Text("x");
  request.set_request_id("mine");
  grpc::ClientContext context;
  const auto stream = stub_->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  v1::AbortRequest abort;
  abort.set_request_id("mine");
  v1::AbortResponse aborted;
  grpc::ClientContext abort_context;
  ASSERT_TRUE(stub_->Abort(&abort_context, abort, &aborted).ok());
  EXPECT_EQ(aborted.aborted(), 1);
  while (stream->Read(&response)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Quiet());
}

TEST_F(InferenceServiceTest, DrainingFinishesRunningStreamsAndRefusesNewOnes) {
  DecodeScript script = Says("Hello");
  script.wait_for_release = true;
  worker_->SetDecode(script);
  Connect();
  grpc::ClientContext context;
  const auto running = stub_->Generate(&context, Text("x"));
  ASSERT_TRUE(FakeWorker::Eventually([&] { return worker_->running() > 0; }));
  std::thread drain([&] { server_->Drain(); });
  EXPECT_TRUE(FakeWorker::Eventually([&] {
    grpc::ClientContext late;
    late.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
    v1::ChatRequest chat;
    chat.set_body_json(Chat("Hi").dump());
    return stub_->Chat(&late, chat)->Finish().error_code() == grpc::StatusCode::UNAVAILABLE;
  }));
  worker_->Release();
  v1::GenerateResponse response;
  std::string text;
  while (running->Read(&response)) text += response.delta().text();
  EXPECT_TRUE(running->Finish().ok());
  EXPECT_EQ(text, "Hello");
  drain.join();
  EXPECT_TRUE(Quiet());
}

TEST_F(InferenceServiceTest, ASlowReaderIsCut) {
  worker_->SetDecode(
      {.steps = std::vector<v1::Tokens>(4000, Step(std::vector<uint32_t>(400, 60)))});
  Connect();
  grpc::ClientContext context;
  const auto stream = stub_->Generate(&context, Text("x"));
  ASSERT_TRUE(FakeWorker::Eventually(
      [&] { return server_->context().metrics.slow_readers_cut.Value() == 1; }));
  EXPECT_TRUE(Quiet());  // although it still does not read
  v1::GenerateResponse response;
  while (stream->Read(&response)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

class SmallBufferTest : public InferenceServiceTest {
 protected:
  SmallBufferTest() { config_.set_write_buffer_bytes(1000); }
};

TEST_F(SmallBufferTest, ADeltaOverTheLimitReachesAReaderThatReads) {
  // The first is far more than goes out before the client reads; the others wait behind it.
  const std::vector<uint32_t> large(400'000, 60), small(10, 60);
  worker_->SetDecode({.steps = {Step(large), Step(small), Step(small)}});
  Connect();
  grpc::ClientContext context;
  const auto stream = stub_->Generate(&context, Text("x"));
  ASSERT_TRUE(FakeWorker::Eventually([&] {
    return worker_->decode_requests().size() == 1 && server_->context().dispatcher.live() == 0;
  }));
  v1::GenerateResponse response;
  while (stream->Read(&response)) {
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(response.finish().completion_tokens(), 400'020);
  EXPECT_EQ(server_->context().metrics.slow_readers_cut.Value(), 0);
  EXPECT_TRUE(Quiet());
}

// Large requests, while the thread that parses them is held up.
class LargeRequestTest : public InferenceServiceTest {
 protected:
  void SetUp() override {
    InferenceServiceTest::SetUp();
    Connect();
    worker_->SetDecode(Says("Hello"));
    boost::asio::post(server_->context().heavy, [this] { released_.get_future().wait(); });
  }
  // Until the thread has done what was posted before.
  void Release() {
    std::promise<void> done;
    boost::asio::post(server_->context().heavy, [&] { done.set_value(); });
    released_.set_value();
    done.get_future().wait();
  }
  std::unique_ptr<grpc::ClientReader<v1::ChatResponse>> SendLargeChat() {
    v1::ChatRequest request;
    request.set_body_json(Chat("Hi").dump() + std::string(kHeavyBodyBytes, ' '));
    auto stream = stub_->Chat(&context_, request);
    EXPECT_TRUE(FakeWorker::Eventually([&] { return Requests() == 1; }));
    return stream;
  }
  double Requests() { return server_->context().metrics.requests.Value(); }

  std::promise<void> released_;
  grpc::ClientContext context_;
  v1::ChatResponse response_;
};

TEST_F(LargeRequestTest, DoesNotHoldUpOthers) {
  const auto large = SendLargeChat();
  EXPECT_TRUE(Generate(Text("x")).ok());
  EXPECT_EQ(worker_->decode_requests().size(), 1u);
  Release();
  std::string content;
  while (large->Read(&response_)) content += response_.delta().content();
  EXPECT_TRUE(large->Finish().ok());
  EXPECT_EQ(content, "Hello");
  EXPECT_TRUE(Quiet());
}

TEST_F(LargeRequestTest, TokenizesOnThatThreadToo) {
  v1::TokenizeRequest tokenize;
  tokenize.set_prompt(std::string(kHeavyBodyBytes, 'x'));
  v1::TokenizeResponse tokens;
  grpc::ClientContext late, context;
  late.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  EXPECT_EQ(stub_->Tokenize(&late, tokenize, &tokens).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  Release();
  ASSERT_TRUE(stub_->Tokenize(&context, tokenize, &tokens).ok());
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_tokens() = tokens.tokens();
  detokenize.set_skip_special_tokens(true);
  v1::DetokenizeResponse text;
  grpc::ClientContext back;
  ASSERT_TRUE(stub_->Detokenize(&back, detokenize, &text).ok());
  EXPECT_EQ(text.text(), tokenize.prompt());
}

TEST_F(LargeRequestTest, AClientThatLeavesBeforeItsTurnIsNeverDispatched) {
  const auto stream = SendLargeChat();
  context_.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(FakeWorker::Eventually([&] { return Requests() == 0; }));
  Release();
  EXPECT_TRUE(worker_->decode_requests().empty());
  EXPECT_TRUE(Quiet());
}

TEST_F(LargeRequestTest, ADrainWaitsForThoseThatCameBefore) {
  const auto large = SendLargeChat();
  HttpClient http = Client();
  http.Send(HttpClient::Format("POST", "/v1/completions",
                               R"({"prompt":"x"})" + std::string(kHeavyBodyBytes, ' ')));
  EXPECT_TRUE(FakeWorker::Eventually([&] { return Requests() == 2; }));
  std::thread drain([&] { server_->Drain(); });
  EXPECT_TRUE(FakeWorker::Eventually([&] { return HttpClient(server_->http_port()).AtEnd(); }));
  Release();
  EXPECT_EQ(http.Read().status, 200);
  while (large->Read(&response_)) {
  }
  EXPECT_TRUE(large->Finish().ok());
  drain.join();
  EXPECT_TRUE(Quiet());
}

TEST_F(LargeRequestTest, StoppingEndsTheCallAndWaitsForTheThread) {
  const auto stream = SendLargeChat();
  std::thread stop([&] { server_.reset(); });
  EXPECT_FALSE(stream->Finish().ok());
  released_.set_value();
  stop.join();
}

TEST_F(InferenceServiceTest, ModelsTokenizeDetokenizeServerInfo) {
  Connect();
  grpc::ClientContext c1, c2, c3, c4;
  v1::ModelsResponse models;
  ASSERT_TRUE(stub_->Models(&c1, {}, &models).ok());
  EXPECT_EQ(models.models(0).id(), "tiny");
  EXPECT_EQ(models.models(0).max_model_len(), 16384);
  v1::TokenizeRequest tokenize;
  tokenize.set_prompt("Hello");
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(stub_->Tokenize(&c2, tokenize, &tokens).ok());
  EXPECT_EQ(tokens.tokens(0), 0u);
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_tokens() = tokens.tokens();
  detokenize.set_skip_special_tokens(true);
  v1::DetokenizeResponse text;
  ASSERT_TRUE(stub_->Detokenize(&c3, detokenize, &text).ok());
  EXPECT_EQ(text.text(), "Hello");
  v1::ServerInfoResponse info;
  ASSERT_TRUE(stub_->ServerInfo(&c4, {}, &info).ok());
  EXPECT_TRUE(info.ready());
}

}  // namespace
}  // namespace baleen::router
