#include "router/http/generation.h"

#include "router/router_fixture.h"

namespace baleen::router {
namespace {

using ::testing::HasSubstr;

class GenerationTest : public RouterFixture {};

TEST_F(GenerationTest, AnswersAChat) {
  Start();
  worker_->SetDecode(Says("Hello there."));
  const HttpReply reply = Post("/v1/chat/completions", Chat("Hi"));
  ASSERT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(reply.headers.at("content-type"), "application/json");
  const json body = reply.json();
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_EQ(body["model"], "tiny");
  EXPECT_EQ(body["choices"][0]["message"]["content"], "Hello there.");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  const auto request = worker_->decode_requests().at(0);
  EXPECT_EQ(body["usage"]["prompt_tokens"], request.prompt_tokens_size());
  EXPECT_EQ(body["usage"]["completion_tokens"], Ids("Hello there.").size() + 1);
  EXPECT_EQ(request.prompt_tokens(0), 0u);  // begin of sentence, once
  EXPECT_NE(request.prompt_tokens(1), 0u);
  EXPECT_TRUE(Quiet());
}

TEST_F(GenerationTest, BothLegsGetTheSameInput) {
  Start();
  Post("/v1/chat/completions", Chat("Hi"));
  ASSERT_TRUE(FakeWorker::Eventually([&] { return !worker_->prefill_requests().empty(); }));
  const v1::PrefillRequest prefill = worker_->prefill_requests()[0];
  const v1::DecodeRequest decode = worker_->decode_requests()[0];
  EXPECT_EQ(prefill.attempt(), decode.attempt());
  EXPECT_EQ(prefill.sampling().SerializeAsString(), decode.sampling().SerializeAsString());
  EXPECT_EQ(prefill.prompt_tokens_size(), decode.prompt_tokens_size());
  EXPECT_EQ(prefill.decode().transport_address(), "fake");
  EXPECT_EQ(decode.prefill_size(), 1);
  // Made by the router: all the context that is left, the checkpoint's defaults, a seed.
  EXPECT_EQ(decode.sampling().max_new_tokens(), 16384 - decode.prompt_tokens_size());
  EXPECT_FLOAT_EQ(decode.sampling().temperature(), 1.0f);
  EXPECT_FLOAT_EQ(decode.sampling().top_p(), 0.95f);
  EXPECT_TRUE(decode.sampling().has_seed());
}

TEST_F(GenerationTest, StreamsAChatAsTheClientsExpect) {
  Start();
  worker_->SetDecode(Says("Hello there."));
  json request = Chat("Hi");
  request["stream"] = true;
  const HttpReply reply = Post("/v1/chat/completions", request);
  ASSERT_EQ(reply.status, 200);
  EXPECT_EQ(reply.headers.at("content-type"), "text/event-stream");
  const std::vector<json> events = reply.events();
  ASSERT_GE(events.size(), 3u);
  EXPECT_EQ(events.back(), "[DONE]");
  EXPECT_EQ(events[0]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_NE(events[0]["choices"][0]["delta"]["content"], "");  // with the first token
  EXPECT_FALSE(events[1]["choices"][0]["delta"].contains("role"));
  EXPECT_EQ(Joined(events, "content"), "Hello there.");
  EXPECT_EQ(events[events.size() - 2]["choices"][0]["finish_reason"], "stop");
  for (const json& e : events) EXPECT_FALSE(e.is_object() && e.contains("usage")) << e;
  EXPECT_TRUE(Quiet());
}

TEST_F(GenerationTest, UsageComesLastAndOnlyWhenAsked) {
  Start();
  DecodeScript script = Says("Hi.");
  script.cached_tokens = 2;
  worker_->SetDecode(script);
  json request = Chat("Hi");
  request["stream"] = true;
  request["stream_options"] = {{"include_usage", true}};
  std::vector<json> events = Post("/v1/chat/completions", request).events();
  const json last = events.at(events.size() - 2);
  EXPECT_EQ(last["choices"], json::array());
  EXPECT_EQ(last["usage"]["completion_tokens"], script.steps.size());
  EXPECT_EQ(last["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
  EXPECT_TRUE(events[0]["usage"].is_null());
  request["stream_options"]["continuous_usage_stats"] = true;
  events = Post("/v1/chat/completions", request).events();
  EXPECT_EQ(events[0]["usage"]["completion_tokens"], 1);
}

class StopStringTest : public GenerationTest, public ::testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(Stream, StopStringTest, ::testing::Bool());

TEST_P(StopStringTest, CutsAcrossTokensAndAbortsBothLegs) {
  Start();
  DecodeScript script = Says("one two three four");
  script.steps.pop_back();
  script.wait_for_release = true;
  script.hang = true;  // the worker would go on
  worker_->SetDecode(script);
  worker_->SetPrefill({.hang = true});
  const json request = {{"prompt", "x"}, {"stop", {"wo thr", "zzz"}}, {"stream", GetParam()}};
  HttpClient client = Client();
  client.Send(HttpClient::Format("POST", "/v1/completions", request.dump()));
  ASSERT_TRUE(FakeWorker::Eventually([&] { return worker_->running() == 2; }));
  worker_->Release();
  const HttpReply reply = client.Read();
  ASSERT_EQ(reply.status, 200) << reply.body;
  if (GetParam()) {
    EXPECT_EQ(Joined(reply.events(), "text"), "one t");
    EXPECT_EQ(reply.events().back(), "[DONE]");
  } else {
    EXPECT_EQ(reply.json()["choices"][0]["text"], "one t");
    EXPECT_EQ(reply.json()["choices"][0]["finish_reason"], "stop");
  }
  EXPECT_TRUE(Quiet());
  EXPECT_EQ(worker_->decodes_cancelled(), 1);
  EXPECT_EQ(worker_->prefills_cancelled(), 1);
}

TEST_F(GenerationTest, StreamsReasoningAndToolCalls) {
  Start();
  worker_->SetDecode(
      Says("I look.</think>\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"get_weather\">\n"
           "<｜DSML｜parameter name=\"city\" string=\"true\">Paris</｜DSML｜parameter>\n"
           "</｜DSML｜invoke>\n</｜DSML｜function_calls>"));
  json request = Chat("Weather in Paris?");
  request["tools"] = {{{"type", "function"},
                       {"function", {{"name", "get_weather"}, {"parameters", json::object()}}}}};
  request["chat_template_kwargs"] = {{"thinking", true}};
  const json message = Post("/v1/chat/completions", request).json()["choices"][0];
  EXPECT_EQ(message["finish_reason"], "tool_calls");
  EXPECT_EQ(message["message"]["reasoning_content"], "I look.");
  EXPECT_TRUE(message["message"]["content"].is_null());
  const json call = message["message"]["tool_calls"][0];
  EXPECT_EQ(call["function"]["name"], "get_weather");
  EXPECT_EQ(json::parse(call["function"]["arguments"].get<std::string>())["city"], "Paris");

  request["stream"] = true;
  std::string name, arguments, id;
  const std::vector<json> events = Post("/v1/chat/completions", request).events();
  for (const json& e : events) {
    if (!e.is_object() || !e["choices"][0]["delta"].contains("tool_calls")) continue;
    const json& delta = e["choices"][0]["delta"]["tool_calls"][0];
    EXPECT_EQ(delta["index"], 0);
    if (delta.contains("id")) id += delta["id"].get<std::string>();
    if (delta["function"].contains("name")) name += delta["function"]["name"].get<std::string>();
    arguments += delta["function"]["arguments"].get<std::string>();
  }
  EXPECT_EQ(name, "get_weather");
  EXPECT_EQ(json::parse(arguments)["city"], "Paris");
  EXPECT_THAT(id, ::testing::StartsWith("call_"));
  EXPECT_EQ(Joined(events, "reasoning_content"), "I look.");
  EXPECT_EQ(Joined(events, "content"), "");
}

TEST_F(GenerationTest, EveryPromptOfAListIsAChoiceByIndex) {
  Start();
  worker_->SetDecode([&](const v1::DecodeRequest& request) {
    return Says(request.prompt_tokens_size() > 3 ? "long" : "short");
  });
  const json body =
      Post("/v1/completions", {{"prompt", {{0, 5, 6, 7, 8}, {0, 5}}}, {"max_tokens", 9}}).json();
  ASSERT_EQ(body["choices"].size(), 2u);
  EXPECT_EQ(body["choices"][0]["text"], "long");
  EXPECT_EQ(body["choices"][1]["index"], 1);
  EXPECT_EQ(body["choices"][1]["text"], "short");
  EXPECT_EQ(body["usage"]["prompt_tokens"], 7);
  EXPECT_EQ(worker_->decode_requests()[0].sampling().max_new_tokens(), 9);
  EXPECT_TRUE(Quiet());
}

TEST_F(GenerationTest, TheFinishReasonOfABudgetIsLength) {
  Start();
  worker_->SetDecode({.steps = Steps(Ids("A")), .finish = v1::LENGTH});
  const json body = Post("/v1/completions", {{"prompt", "x"}, {"max_tokens", 1}}).json();
  EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(body["usage"]["completion_tokens"], 1);
}

TEST_F(GenerationTest, AFirstTokenThatEndsGivesAnEmptyAnswer) {
  Start();
  worker_->SetDecode({.steps = Steps({kEosToken})});
  const json body = Post("/v1/chat/completions", Chat("x")).json();
  EXPECT_EQ(body["choices"][0]["message"]["content"], "");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(body["usage"]["completion_tokens"], 1);
}

void AddLogprob(uint32_t token, float logprob,
                google::protobuf::RepeatedPtrField<v1::TokenLogprob>* list) {
  v1::TokenLogprob* t = list->Add();
  t->set_token(token);
  t->set_logprob(logprob);
  t->add_top_tokens(token);
  t->add_top_logprobs(logprob);
}

// The first step after `prompt`, with logprobs of everything.
v1::Tokens ScoredStep(const std::vector<uint32_t>& prompt, const std::vector<uint32_t>& answer) {
  v1::Tokens step = Step(answer);
  for (uint32_t token : prompt) AddLogprob(token, -0.5f, step.mutable_prompt_logprobs());
  for (uint32_t token : answer) AddLogprob(token, -0.25f, step.mutable_logprobs());
  return step;
}

TEST_F(GenerationTest, EchoesThePromptWithItsLogprobs) {
  Start();
  const std::vector<uint32_t> prompt = {0, 50, 51};
  worker_->SetDecode({.steps = {ScoredStep(prompt, {60, kEosToken})}});
  const json body = Post("/v1/completions",
                         {{"prompt", prompt}, {"echo", true}, {"logprobs", 1}, {"max_tokens", 1}})
                        .json();
  EXPECT_TRUE(worker_->decode_requests()[0].sampling().prompt_logprobs());
  const json logprobs = body["choices"][0]["logprobs"];
  ASSERT_EQ(logprobs["token_logprobs"].size(), 5u) << body;
  EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
  EXPECT_EQ(logprobs["token_logprobs"][1], -0.5);
  EXPECT_EQ(logprobs["token_logprobs"][3], -0.25);
  const ModelInfo& model = server_->context().model;
  EXPECT_EQ(body["choices"][0]["text"],
            model.tokenizer->Decode(std::vector<int32_t>{50, 51, 60}, true));
}

// Harnesses sum the logprobs of a continuation but for the last entry, which is the answer's.
TEST_F(GenerationTest, AnEchoIsFollowedByTheAnswersLogprobEvenIfThatEndsIt) {
  Start();
  const std::vector<uint32_t> prompt = {0, 50, 51};
  worker_->SetDecode({.steps = {ScoredStep(prompt, {kEosToken})}});
  const json body = Post("/v1/completions",
                         {{"prompt", prompt}, {"echo", true}, {"logprobs", 1}, {"max_tokens", 1}})
                        .json();
  const json logprobs = body["choices"][0]["logprobs"];
  for (const char* list : {"tokens", "token_logprobs", "top_logprobs", "text_offset"})
    EXPECT_EQ(logprobs[list].size(), prompt.size() + 1) << list;
  EXPECT_EQ(logprobs["token_logprobs"].back(), -0.25);
  const json& text = body["choices"][0]["text"];
  EXPECT_EQ(logprobs["text_offset"].back(), text.get<std::string>().size());
}

TEST_F(GenerationTest, AnEchoMayComeAlone) {
  Start();
  const std::vector<uint32_t> prompt = {0, 50, 51};
  const ModelInfo& model = server_->context().model;
  const std::string text = model.tokenizer->Decode(std::vector<int32_t>{50, 51}, true);
  for (const uint32_t answer : {60u, kEosToken}) {
    worker_->SetDecode({.steps = {ScoredStep(prompt, {answer})}});
    json request = {{"prompt", prompt}, {"echo", true}, {"logprobs", 1}, {"max_tokens", 0}};
    const json body = Post("/v1/completions", request).json();
    const json& choice = body["choices"][0];
    EXPECT_EQ(choice["text"], text);
    EXPECT_EQ(choice["finish_reason"], "length");
    for (const char* list : {"tokens", "token_logprobs", "top_logprobs", "text_offset"})
      EXPECT_EQ(choice["logprobs"][list].size(), prompt.size()) << list;
    EXPECT_EQ(body["usage"]["completion_tokens"], 0);
    request["stream"] = true;
    const std::vector<json> events = Post("/v1/completions", request).events();
    EXPECT_EQ(Joined(events, "text"), text);
    EXPECT_EQ(events.at(events.size() - 2)["choices"][0]["finish_reason"], "length");
  }
  EXPECT_EQ(worker_->decode_requests()[0].sampling().max_new_tokens(), 1);
  EXPECT_TRUE(Quiet());
}

// SGLang's cache_prefix: the prompt is computed and that is all.
TEST_F(GenerationTest, GenerateMayAskForNoTokens) {
  Start();
  const std::vector<uint32_t> prompt = {0, 50, 51};
  worker_->SetDecode({.steps = {ScoredStep(prompt, {60})}, .finish = v1::LENGTH});
  json request = {{"input_ids", prompt}, {"sampling_params", {{"max_new_tokens", 0}}}};
  EXPECT_EQ(Post("/generate", request).status, 200);
  request["return_logprob"] = true;
  request["logprob_start_len"] = 0;
  for (const bool stream : {false, true}) {
    request["stream"] = stream;
    const HttpReply reply = Post("/generate", request);
    const json body = stream ? reply.events().at(0) : reply.json();
    EXPECT_EQ(body["text"], "");
    EXPECT_EQ(body["output_ids"], json::array());
    const json& meta = body["meta_info"];
    EXPECT_EQ(meta["completion_tokens"], 0);
    EXPECT_EQ(meta["finish_reason"], (json{{"type", "length"}, {"length", 0}}));
    EXPECT_EQ(meta["input_token_logprobs"].size(), prompt.size());
    EXPECT_EQ(meta["output_token_logprobs"], json::array());
  }
  EXPECT_TRUE(Quiet());
}

TEST_F(GenerationTest, ChatLogprobsLeaveOutTheEndOfSentence) {
  Start();
  v1::Tokens step = Step({60, kEosToken});
  for (uint32_t token : {60u, kEosToken}) {
    v1::TokenLogprob* t = step.add_logprobs();
    t->set_token(token);
    t->set_logprob(-0.5f);
    t->add_top_tokens(token);
    t->add_top_logprobs(-0.5f);
    t->add_top_tokens(61);
    t->add_top_logprobs(-2.f);
  }
  worker_->SetDecode({.steps = {step}});
  json request = Chat("x");
  request["logprobs"] = true;
  request["top_logprobs"] = 2;
  const json content =
      Post("/v1/chat/completions", request).json()["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 1u);
  EXPECT_EQ(content[0]["logprob"], -0.5);
  EXPECT_EQ(content[0]["top_logprobs"].size(), 2u);
  EXPECT_EQ(content[0]["top_logprobs"][1]["logprob"], -2.0);
}

TEST_F(GenerationTest, SglangsGenerateIsCumulative) {
  Start();
  worker_->SetDecode(Says("Hello there."));
  const json body = {{"text", "x"}, {"sampling_params", {{"max_new_tokens", 20}}}};
  EXPECT_EQ(Post("/generate", body).json()["text"], "Hello there.");
  json streaming = body;
  streaming["stream"] = true;
  const std::vector<json> events = Post("/generate", streaming).events();
  EXPECT_EQ(events.back(), "[DONE]");
  const json last = events.at(events.size() - 2);
  EXPECT_EQ(last["text"], "Hello there.");
  EXPECT_EQ(last["meta_info"]["finish_reason"]["type"], "stop");
  EXPECT_EQ(last["meta_info"]["completion_tokens"], Ids("Hello there.").size() + 1);
  const json batch = Post("/generate", {{"text", {"a", "b"}}}).json();
  EXPECT_EQ(batch.size(), 2u);
}

TEST_F(GenerationTest, AFailureBeforeTheFirstTokenIsAnHttpError) {
  Start();
  worker_->SetDecode({.hang = true});
  worker_->SetPrefill(
      {.hand_off = false, .fail = grpc::Status(grpc::StatusCode::INTERNAL, "kernel on fire")});
  json request = Chat("x");
  request["stream"] = true;
  const HttpReply reply = Post("/v1/chat/completions", request);
  EXPECT_EQ(reply.status, 500);
  EXPECT_THAT(reply.body, HasSubstr("kernel on fire"));
  EXPECT_EQ(reply.headers.at("x-should-retry"), "false");
  EXPECT_TRUE(Quiet());
  EXPECT_EQ(worker_->decodes_cancelled(), 1);  // the other leg
}

TEST_F(GenerationTest, AFailureAfterTheFirstTokenIsAnEventWithoutDone) {
  Start();
  DecodeScript script = Says("Hello");
  script.steps.pop_back();
  script.fail = grpc::Status(grpc::StatusCode::UNAVAILABLE, "killed");
  worker_->SetDecode(script);
  worker_->SetPrefill({.hang = true});
  json request = Chat("x");
  request["stream"] = true;
  HttpClient client = Client();
  const HttpReply reply = client.Post("/v1/chat/completions", request);
  EXPECT_EQ(reply.status, 200);
  const std::vector<json> events = reply.events();
  EXPECT_THAT(events.back()["error"]["message"].get<std::string>(), HasSubstr("killed"));
  for (const json& e : events) EXPECT_NE(e, "[DONE]");
  EXPECT_TRUE(client.AtEnd());
  EXPECT_TRUE(Quiet());
  EXPECT_EQ(worker_->prefills_cancelled(), 1);
}

TEST_F(GenerationTest, ALostWorkerIsRetriedOnAnotherBeforeTheFirstToken) {
  Start();
  std::unique_ptr<FakeWorker> second = MakeWorker({.name = "1"});
  ASSERT_TRUE(FakeWorker::Eventually([&] {
    const auto view = server_->context().directory.View();
    return view->prefill.size() == 2 && view->decode.size() == 2 &&
           view->prefill[1].state == GroupState::kReady &&
           view->decode[1].state == GroupState::kReady;
  }));
  worker_->SetDecode({.fail = grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone")});
  second->SetDecode(Says("Hello"));
  for (int i = 0; i < 4; ++i)
    EXPECT_EQ(Post("/v1/completions", {{"prompt", "x"}}).json()["choices"][0]["text"], "Hello");
  EXPECT_GT(worker_->decode_requests().size(), 0u);
  EXPECT_TRUE(Quiet());
}

TEST_F(GenerationTest, WithoutWorkersAClientWaitsAndThenComesBackLater) {
  config_.set_queue_timeout_ms(200);
  config_.set_max_queued(1);
  StartRouter();
  HttpClient waiting(server_->http_port());
  waiting.Send(HttpClient::Format("POST", "/v1/completions", R"({"prompt":"x"})"));
  ASSERT_TRUE(FakeWorker::Eventually([&] { return server_->context().dispatcher.live() == 1; }));
  const HttpReply full = Post("/v1/completions", {{"prompt", "y"}});
  EXPECT_EQ(full.status, 429);
  EXPECT_EQ(full.headers.at("retry-after"), "1");
  const HttpReply late = waiting.Read();
  EXPECT_EQ(late.status, 503);
  EXPECT_EQ(late.headers.at("retry-after"), "1");
  EXPECT_TRUE(Quiet());
}

TEST_F(GenerationTest, AQueuedRequestIsServedWhenWorkersCome) {
  StartRouter();
  HttpClient waiting(server_->http_port());
  waiting.Send(HttpClient::Format("POST", "/v1/completions", R"({"prompt":"x"})"));
  ASSERT_TRUE(FakeWorker::Eventually([&] { return server_->context().dispatcher.live() == 1; }));
  worker_ = MakeWorker();
  EXPECT_EQ(waiting.Read().status, 200);
}

TEST_F(GenerationTest, AClientThatLeavesFreesBothLegs) {
  Start();
  for (const bool streaming : {false, true}) {
    SCOPED_TRACE(streaming);
    worker_->SetDecode({.steps = streaming ? Steps(Ids("Hello")) : Steps({}), .hang = true});
    worker_->SetPrefill({.hang = true});
    HttpClient client = Client();
    json request = Chat("x");
    request["stream"] = streaming;
    client.Send(HttpClient::Format("POST", "/v1/chat/completions", request.dump()));
    if (streaming) client.ReadUntil("data: ");
    ASSERT_TRUE(FakeWorker::Eventually([&] { return worker_->running() == 2; }));
    client.Close();
    EXPECT_TRUE(Quiet());
  }
  EXPECT_EQ(worker_->decodes_cancelled(), 2);
  EXPECT_EQ(worker_->prefills_cancelled(), 2);
}

TEST_F(GenerationTest, ASlowReaderIsCutAndHarmsNobody) {
  config_.set_write_buffer_bytes(64 << 10);
  Start();
  worker_->SetDecode([&](const v1::DecodeRequest& request) {
    if (request.prompt_tokens_size() < 5) return Says("Hello");
    return DecodeScript{.steps = std::vector<v1::Tokens>(20000, Step({60, 61, 62})), .hang = true};
  });
  HttpClient slow(server_->http_port(), /*receive_buffer_bytes=*/4096);
  const json request = {{"prompt", {0, 5, 6, 7, 8, 9}}, {"stream", true}};
  slow.Send(HttpClient::Format("POST", "/v1/completions", request.dump()));
  ASSERT_TRUE(FakeWorker::Eventually(
      [&] { return server_->context().metrics.slow_readers_cut.Value() == 1; }));
  EXPECT_EQ(Post("/v1/completions", {{"prompt", {0, 5}}}).status, 200);
  EXPECT_TRUE(Quiet());
}

// Also when more follows at once: the last event of /generate is all of the text, then comes
// [DONE].
TEST_F(GenerationTest, EventsOverTheLimitReachAReaderThatReads) {
  config_.set_write_buffer_bytes(1000);
  Start();
  worker_->SetDecode({.steps = std::vector<v1::Tokens>(20, Step(std::vector<uint32_t>(400, 60)))});
  const json body = {{"text", "x"}, {"stream", true}};
  for (int i = 0; i < 5; ++i) {
    const std::vector<json> events = Post("/generate", body).events();
    ASSERT_GE(events.size(), 3u);
    EXPECT_EQ(events.back(), "[DONE]");
    EXPECT_EQ(events[events.size() - 2]["meta_info"]["completion_tokens"], 8000);
  }
  EXPECT_EQ(server_->context().metrics.slow_readers_cut.Value(), 0);
  EXPECT_TRUE(Quiet());
}

TEST_F(GenerationTest, AbortByIdEndsTheRequestWithAnError) {
  Start();
  worker_->SetDecode({.hang = true});
  HttpClient client = Client();
  client.Send(HttpClient::Format("POST", "/v1/completions", R"({"prompt":"x"})",
                                 {{"x-request-id", "mine"}}));
  ASSERT_TRUE(FakeWorker::Eventually([&] { return server_->context().registry.size() > 0; }));
  EXPECT_EQ(Post("/abort_request", {{"rid", "mine"}}).json()["aborted"], 1);
  const HttpReply reply = client.Read();
  EXPECT_EQ(reply.status, 499);
  EXPECT_EQ(reply.headers.at("x-request-id"), "mine");
  EXPECT_TRUE(Quiet());
}

TEST_F(GenerationTest, EveryAnswersIdAbortsIt) {
  Start();
  DecodeScript script = Says("Hello");
  script.steps.pop_back();
  script.hang = true;
  worker_->SetDecode(script);
  json chat = Chat("x");
  chat["stream"] = true;
  const std::pair<const char*, json> requests[] = {
      {"/v1/chat/completions", chat},
      {"/v1/completions", {{"prompt", {"x", "y"}}, {"stream", true}}},
      {"/generate", {{"text", "x"}, {"stream", true}}}};
  for (const auto& [path, request] : requests) {
    SCOPED_TRACE(path);
    HttpClient client = Client();
    client.Send(HttpClient::Format("POST", path, request.dump()));
    client.ReadUntil("data: ");
    const json event = json::parse(client.ReadUntil("\n\n"));
    const json& id = event.contains("id") ? event["id"] : event["meta_info"]["id"];
    const size_t choices = request.contains("prompt") ? 2 : 1;
    EXPECT_EQ(Post("/abort_request", {{"rid", id}}).json()["aborted"], choices);
    EXPECT_THAT(client.ReadUntil("aborted by request"), HasSubstr("\"error\""));
    EXPECT_TRUE(Quiet());
  }
}

TEST_F(GenerationTest, GenerateIsAbortedUnderItsRid) {
  Start();
  worker_->SetDecode({.hang = true});
  for (const json& rid : {json("mine"), json::array({"other", "mine"})}) {
    const json text = rid.is_array() ? json::array({"x", "y"}) : json("x");
    HttpClient client = Client();
    client.Send(HttpClient::Format("POST", "/generate", json{{"text", text}, {"rid", rid}}.dump(),
                                   {{"x-request-id", "header"}}));
    const size_t ids = rid.is_array() ? 2 : 1;
    ASSERT_TRUE(
        FakeWorker::Eventually([&] { return size_t(server_->context().registry.size()) == ids; }));
    EXPECT_EQ(Post("/abort_request", {{"rid", "header"}}).json()["aborted"], 0);
    EXPECT_EQ(Post("/abort_request", {{"rid", "mine"}}).json()["aborted"], 1);
    EXPECT_EQ(client.Read().status, 499);
    EXPECT_TRUE(Quiet());
  }
}

}  // namespace
}  // namespace baleen::router
