#include "router/http/http_server.h"

#include <thread>

#include "router/router_fixture.h"

namespace baleen::router {
namespace {

using ::testing::HasSubstr;

class HttpServerTest : public RouterFixture {};

TEST_F(HttpServerTest, AConnectionCarriesManyRequests) {
  Start();
  worker_->SetDecode(Says("Hello"));
  HttpClient client = Client();
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(client.Get("/health").status, 200);
    const json stream = {{"prompt", "x"}, {"stream", i % 2 == 0}};
    EXPECT_EQ(client.Post("/v1/completions", stream).status, 200);
    EXPECT_EQ(client.Post("/v1/completions", {{"prompt", 5}}).status, 400);
  }
}

TEST_F(HttpServerTest, PipelinedRequestsAreAnsweredInOrder) {
  Start();
  worker_->SetDecode(Says("Hello"));
  HttpClient client = Client();
  client.Send(HttpClient::Format("POST", "/v1/completions", R"({"prompt":"x","stream":true})") +
              HttpClient::Format("GET", "/version") +
              HttpClient::Format("POST", "/v1/completions", R"({"prompt":"x"})") +
              HttpClient::Format("GET", "/health"));
  EXPECT_EQ(client.Read().events().back(), "[DONE]");
  EXPECT_EQ(client.Read().json()["name"], "baleen");
  EXPECT_EQ(client.Read().json()["object"], "text_completion");
  EXPECT_EQ(client.Read().status, 200);
}

TEST_F(HttpServerTest, ChunkedBodiesAndExpectContinueAreUnderstood) {
  Start();
  HttpClient client = Client();
  client.Send(
      "POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
      "8\r\n{\"prompt\r\n8\r\n\":\"abc\"}\r\n0\r\n\r\n");
  EXPECT_EQ(client.Read().status, 200);
  const std::string body = R"({"prompt":"abc"})";
  client.Send("POST /tokenize HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: " +
              std::to_string(body.size()) + "\r\n\r\n");
  EXPECT_THAT(client.ReadUntil("\r\n\r\n"), HasSubstr("100 Continue"));
  client.Send(body);
  EXPECT_EQ(client.Read().status, 200);
}

TEST_F(HttpServerTest, ABodyOverTheLimitGets413AndNotAReset) {
  StartRouter();
  HttpClient client = Client();
  // All of it is sent before the reply is read, as many clients do.
  EXPECT_TRUE(
      client.Send(HttpClient::Format("POST", "/v1/chat/completions", std::string(50 << 20, 'x'))));
  const HttpReply reply = client.Read();
  EXPECT_EQ(reply.status, 413);
  EXPECT_THAT(reply.json()["error"]["message"].get<std::string>(), HasSubstr("33554432"));
  EXPECT_EQ(Get("/health").status, 200);
}

TEST_F(HttpServerTest, ABodyThatTakesTooLongGets408) {
  config_.set_body_timeout_ms(50);
  StartRouter();
  HttpClient slow = Client();
  slow.Send("POST /tokenize HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc");
  const HttpReply reply = slow.Read();
  EXPECT_EQ(reply.status, 408);
  EXPECT_THAT(reply.json()["error"]["message"].get<std::string>(), HasSubstr("50 ms"));
  EXPECT_EQ(reply.headers.at("connection"), "close");
  EXPECT_EQ(Get("/health").status, 200);
}

TEST_F(HttpServerTest, OneConnectionTooManyGets503UntilAnotherCloses) {
  config_.set_http_connections(2);
  StartRouter();
  HttpClient first = Client();
  auto second = std::make_unique<HttpClient>(server_->http_port());
  EXPECT_EQ(first.Get("/health").status, 200);
  EXPECT_EQ(second->Get("/health").status, 200);
  HttpClient third = Client();
  const HttpReply reply = third.Get("/health");
  EXPECT_EQ(reply.status, 503);
  EXPECT_THAT(reply.json()["error"]["message"].get<std::string>(), HasSubstr("2 are open"));
  EXPECT_EQ(reply.headers.count("retry-after"), 1u);
  EXPECT_EQ(first.Get("/health").status, 200);
  second.reset();
  EXPECT_TRUE(FakeWorker::Eventually([&] { return Get("/health").status == 200; }));
}

TEST_F(HttpServerTest, WhatIsNotHttpIsRefused) {
  StartRouter();
  HttpClient garbage = Client();
  garbage.Send("\x16\x03\x01 hello\r\n\r\n");
  EXPECT_EQ(garbage.Read().status, 400);
  HttpClient large = Client();
  large.Send("GET / HTTP/1.1\r\nX: " + std::string(100 << 10, 'x') + "\r\n\r\n");
  EXPECT_EQ(large.Read().status, 431);
  HttpClient silent = Client();
  silent.Send("POST /tokenize HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc");
  silent.HalfClose();  // half a request: closed without a word
  EXPECT_TRUE(silent.AtEnd());
}

TEST_F(HttpServerTest, ALongPromptDoesNotHoldUpOthers) {
  Start();
  HttpClient heavy = Client();
  heavy.Send(HttpClient::Format("POST", "/tokenize",
                                json({{"prompt", std::string(4 << 20, 'x')}}).dump()));
  EXPECT_EQ(Get("/health").status, 200);
  EXPECT_EQ(heavy.Read().status, 200);
}

TEST_F(HttpServerTest, ManyClientsAtOnce) {
  Start();
  worker_->SetDecode(Says("Hello there, how are you?"));
  std::atomic<int> right{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 32; ++i)
    clients.emplace_back([&, i] {
      const HttpReply reply = Post("/v1/completions", {{"prompt", "x"}, {"stream", i % 2 == 0}});
      const std::string text = i % 2 == 0 ? Joined(reply.events(), "text")
                                          : reply.json()["choices"][0]["text"].get<std::string>();
      right += text == "Hello there, how are you?";
    });
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right, 32);
  EXPECT_TRUE(Quiet());
}

TEST_F(HttpServerTest, MetricsCountWhatHappened) {
  Start();
  Post("/v1/completions", {{"prompt", "x"}, {"odd_field", 1}});
  Post("/v1/completions", {{"prompt", 5}});
  // A reply is counted once it is written: its client may have read it before that.
  std::string metrics;
  const auto counts = [&](const std::string& status) {
    return metrics.find(R"(requests_total{endpoint="/v1/completions",status=")" + status +
                        R"("} 1)") != std::string::npos;
  };
  EXPECT_TRUE(FakeWorker::Eventually([&] {
    metrics = Get("/metrics").body;
    return counts("200") && counts("400");
  })) << metrics;
  EXPECT_THAT(metrics,
              HasSubstr(R"(baleen_router_unknown_fields_total{endpoint="/v1/completions"} 1)"));
  EXPECT_THAT(metrics, HasSubstr("baleen_router_first_token_seconds_count 1"));
}

}  // namespace
}  // namespace baleen::router
