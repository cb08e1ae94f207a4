#include "router/http/flush_cache.h"

#include "router/router_fixture.h"

namespace baleen::router {
namespace {

using ::testing::HasSubstr;

class FlushCacheTest : public RouterFixture {
 protected:
  static std::string Message(const HttpReply& reply) {
    return reply.json()["error"]["message"].get<std::string>();
  }
};

TEST_F(FlushCacheTest, AnswersOnceEveryPrefillGroupHasEmptiedItsCache) {
  Start();
  const auto second = MakeWorker({.name = "1", .decode = false});
  ASSERT_TRUE(FakeWorker::Eventually([&] { return worker_->accepted() && second->accepted(); }));
  for (int i = 0; i < 2; ++i) {
    const HttpReply reply = Post("/flush_cache", json::object());
    EXPECT_EQ(reply.status, 200);
    EXPECT_EQ(reply.json()["groups"], 2);
    EXPECT_EQ(reply.json()["flushed"], json::array({"prefill-0", "prefill-1"}));
  }
}

TEST_F(FlushCacheTest, AGroupThatDoesNotAnswerIsNamed) {
  config_.set_flush_timeout_ms(200);
  Start();
  const auto stuck = MakeWorker({.name = "stuck", .decode = false});
  stuck->SetFlushes(false);
  ASSERT_TRUE(FakeWorker::Eventually([&] { return worker_->accepted() && stuck->accepted(); }));
  const HttpReply reply = Post("/flush_cache", json::object());
  EXPECT_EQ(reply.status, 504);
  EXPECT_THAT(Message(reply), HasSubstr("prefill-stuck did not answer"));
}

TEST_F(FlushCacheTest, AGroupThatGoesAwayIsNamed) {
  Start();
  worker_->SetFlushes(false);
  ASSERT_TRUE(FakeWorker::Eventually([&] { return worker_->accepted(); }));
  HttpClient client = Client();
  client.Send(HttpClient::Format("POST", "/flush_cache", "{}"));
  ASSERT_TRUE(FakeWorker::Eventually([&] {
    for (const v1::RouterCommand& c : worker_->commands())
      if (c.has_flush_cache()) return true;
    return false;
  }));
  worker_->Deregister();
  const HttpReply reply = client.Read();
  EXPECT_EQ(reply.status, 503);
  EXPECT_THAT(Message(reply), HasSubstr("prefill-0 is gone"));
}

TEST_F(FlushCacheTest, OneGroupCanBeNamed) {
  Start();
  ASSERT_TRUE(FakeWorker::Eventually([&] { return worker_->accepted(); }));
  const json flushed = Client().PostText("/workers/prefill-0/flush_cache", "").json()["flushed"];
  EXPECT_EQ(flushed, json::array({"prefill-0"}));
  const HttpReply decode = Client().PostText("/workers/decode-0/flush_cache", "");
  EXPECT_EQ(decode.status, 404);
  EXPECT_THAT(Message(decode), HasSubstr("no prefill group"));
}

}  // namespace
}  // namespace baleen::router
