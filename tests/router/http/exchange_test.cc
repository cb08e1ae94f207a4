#include "router/http/exchange.h"

#include <thread>

#include "router/router_fixture.h"

namespace baleen::router {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class ExchangeTest : public RouterFixture {};

TEST_F(ExchangeTest, TheRequestIdIsEchoedOrMade) {
  StartRouter();
  EXPECT_EQ(Client().Get("/health", {{"x-request-id", "abc-1"}}).headers.at("x-request-id"),
            "abc-1");
  EXPECT_THAT(Get("/health").headers.at("x-request-id"), StartsWith("req-"));
  const std::string nasty(1000, 'x');
  EXPECT_THAT(Client().Get("/health", {{"x-request-id", nasty}}).headers.at("x-request-id"),
              StartsWith("req-"));
}

TEST_F(ExchangeTest, HeadHasTheLengthButNoBody) {
  StartRouter();
  HttpClient client = Client();
  client.Send(HttpClient::Format("HEAD", "/version"));
  const HttpReply head = client.Read(/*head=*/true);
  EXPECT_EQ(head.status, 200);
  const HttpReply get = client.Get("/version");  // the connection is in step
  EXPECT_EQ(head.headers.at("content-length"), std::to_string(get.body.size()));
}

TEST_F(ExchangeTest, BrowsersAreLetIn) {
  StartRouter();
  HttpClient client = Client();
  client.Send(HttpClient::Format("OPTIONS", "/v1/chat/completions"));
  const HttpReply preflight = client.Read();
  EXPECT_EQ(preflight.status, 204);
  EXPECT_THAT(preflight.headers.at("access-control-allow-methods"), HasSubstr("POST"));
  EXPECT_EQ(client.Get("/v1/models").headers.at("access-control-allow-origin"), "*");
}

TEST_F(ExchangeTest, AnOldClientGetsAStreamThatEndsWithTheConnection) {
  Start();
  worker_->SetDecode(Says("Hello"));
  HttpClient client = Client();
  const std::string body = R"({"prompt":"x","stream":true})";
  client.Send("POST /v1/completions HTTP/1.0\r\nContent-Length: " + std::to_string(body.size()) +
              "\r\n\r\n" + body);
  const HttpReply reply = client.Read();
  EXPECT_EQ(reply.headers.count("transfer-encoding"), 0u);
  EXPECT_EQ(reply.headers.at("connection"), "close");
  EXPECT_EQ(Joined(reply.events(), "text"), "Hello");
}

TEST_F(ExchangeTest, WhileDrainingEveryReplyEndsItsConnection) {
  config_.set_drain_grace_ms(1500);
  Start();
  DecodeScript script = Says("Hello");
  script.wait_for_release = true;
  worker_->SetDecode(script);
  HttpClient whole = Client(), stream = Client(), idle = Client();
  whole.Send(HttpClient::Format("POST", "/v1/completions", R"({"prompt":"x"})"));
  stream.Send(HttpClient::Format("POST", "/v1/completions", R"({"prompt":"x","stream":true})"));
  EXPECT_EQ(idle.Get("/health").headers.count("connection"), 0u);
  ASSERT_TRUE(FakeWorker::Eventually([&] { return worker_->decode_requests().size() == 2; }));
  std::thread drain([&] { server_->Drain(); });
  EXPECT_TRUE(FakeWorker::Eventually([&] { return server_->context().draining.load(); }));
  EXPECT_EQ(idle.Get("/health").headers["connection"], "close");
  EXPECT_TRUE(idle.AtEnd());
  worker_->Release();
  for (HttpClient* client : {&whole, &stream}) {  // they came before the drain
    HttpReply reply = client->Read();
    EXPECT_EQ(reply.status, 200);
    EXPECT_EQ(reply.headers["connection"], "close");
    EXPECT_TRUE(client->AtEnd());
  }
  drain.join();
}

TEST_F(ExchangeTest, EventsAreExactlyDataAndTwoLineFeeds) {
  Start();
  HttpClient client = Client();
  client.Send(HttpClient::Format("POST", "/v1/completions", R"({"prompt":"x","stream":true})"));
  const std::string body = client.Read().body;
  EXPECT_EQ(body.find('\r'), std::string::npos);
  EXPECT_THAT(body, StartsWith("data: {"));
  EXPECT_THAT(body, ::testing::EndsWith("\n\ndata: [DONE]\n\n"));
}

}  // namespace
}  // namespace baleen::router
