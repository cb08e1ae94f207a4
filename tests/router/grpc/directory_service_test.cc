#include "router/grpc/directory_service.h"

#include "router/router_fixture.h"

namespace baleen::router {
namespace {

using ::testing::HasSubstr;

class DirectoryServiceTest : public RouterFixture {};

TEST_F(DirectoryServiceTest, GroupsRegisterReportAndShowInWorkers) {
  Start();
  ASSERT_TRUE(FakeWorker::Eventually([&] { return worker_->accepted(); }));
  const json workers = Get("/workers").json()["workers"];
  ASSERT_EQ(workers.size(), 2u);
  EXPECT_EQ(workers[0]["group"], "prefill-0");
  EXPECT_EQ(workers[0]["state"], "ready");
  EXPECT_EQ(workers[1]["members"][0]["total_pages"], 1000);
  EXPECT_EQ(workers[1]["members"][0]["accept_length"], 1.5);
}

TEST_F(DirectoryServiceTest, AMismatchIsRefusedWithTheFieldsName) {
  Start();
  const std::pair<const char*, std::vector<std::pair<std::string, std::string>>> cases[] = {
      {"page_tokens: 64 here, 32 there", {{"page_tokens", "32"}}},
      {"tokenizer", {{"page_tokens", "64"}, {"tokenizer", "another"}}},
      {"model", {{"page_tokens", "64"}, {"model", "another"}}}};
  for (const auto& [reason, fingerprint] : cases) {
    const auto stranger = MakeWorker({.name = "strange", .fingerprint = fingerprint});
    ASSERT_TRUE(FakeWorker::Eventually([&] { return !stranger->rejection().empty(); }));
    EXPECT_THAT(stranger->rejection(), HasSubstr(reason));
  }
  EXPECT_EQ(Get("/workers").json()["workers"].size(), 2u);
  EXPECT_EQ(Post("/v1/completions", {{"prompt", "x"}}).status, 200);  // nobody else disturbed
}

TEST_F(DirectoryServiceTest, ABrokenStreamRemovesTheGroupAtOnce) {
  Start();
  worker_->Deregister();
  ASSERT_TRUE(FakeWorker::Eventually([&] { return !Ready(); }));
  EXPECT_TRUE(FakeWorker::Eventually([&] { return Get("/workers").json()["workers"].empty(); }));
  EXPECT_EQ(Get("/readiness").status, 503);
}

TEST_F(DirectoryServiceTest, ADrainingGroupGetsNoNewWork) {
  Start();
  worker_->SetState(v1::DRAINING);
  ASSERT_TRUE(FakeWorker::Eventually([&] { return !Ready(); }));
  worker_->SetState(v1::READY);
  ASSERT_TRUE(FakeWorker::Eventually([&] { return Ready(); }));
  EXPECT_EQ(Post("/v1/completions", {{"prompt", "x"}}).status, 200);
}

TEST_F(DirectoryServiceTest, CommandsReachTheGroups) {
  Start();
  ASSERT_TRUE(FakeWorker::Eventually([&] { return worker_->accepted(); }));
  EXPECT_EQ(Client().PostText("/workers/decode-0/drain", "").json()["groups"], 1);
  EXPECT_EQ(Client().PostText("/workers/nobody/drain", "").status, 404);
  EXPECT_EQ(Client().PostText("/workers/decode-0/explode", "").status, 404);
  ASSERT_TRUE(FakeWorker::Eventually([&] {
    int drains = 0;
    for (const v1::RouterCommand& c : worker_->commands()) drains += c.has_drain();
    return drains == 1;
  }));
}

TEST_F(DirectoryServiceTest, ARestartedRouterLearnsTheClusterAgain) {
  Start();
  config_.set_grpc_port(server_->grpc_port());
  worker_.reset();
  server_.reset();
  StartRouter();
  worker_ = MakeWorker();
  EXPECT_TRUE(FakeWorker::Eventually([&] { return Ready(); }));
}

}  // namespace
}  // namespace baleen::router
