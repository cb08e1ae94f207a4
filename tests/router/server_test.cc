#include "router/server.h"

#include <filesystem>
#include <fstream>
#include <thread>

#include "grpcpp/grpcpp.h"
#include "router/router_fixture.h"
#include "testing/status_matchers.h"

namespace baleen::router {
namespace {

using baleen::testing::StatusIs;
using ::testing::HasSubstr;

class ServerTest : public RouterFixture {};

TEST_F(ServerTest, BadConfigurationsAreRefusedByField) {
  v1::RouterConfig config = config_;
  config.set_model("/nowhere");
  EXPECT_THAT(Server::Create(config, shutdown_),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nowhere")));
  config = config_;
  config.set_prefill_policy("fastest");
  EXPECT_THAT(Server::Create(config, shutdown_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("prefill_policy")));
  config = config_;
  config.set_http_threads(0);
  EXPECT_THAT(Server::Create(config, shutdown_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("http_threads")));
}

TEST_F(ServerTest, APortInUseIsAClearError) {
  StartRouter();
  v1::RouterConfig config = config_;
  config.set_http_port(server_->http_port());
  EXPECT_THAT(Server::Create(config, shutdown_),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("http_port")));
  config = config_;
  config.set_grpc_port(server_->grpc_port());
  EXPECT_THAT(Server::Create(config, shutdown_),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("grpc_port")));
}

TEST_F(ServerTest, TheReadyFileNamesThePorts) {
  const std::string path = ::testing::TempDir() + "/router.ready";
  std::filesystem::remove(path);
  config_.set_ready_file(path);
  StartRouter();
  std::ifstream in(path);
  std::string line;
  ASSERT_TRUE(std::getline(in, line));
  EXPECT_EQ(line, "http_port=" + std::to_string(server_->http_port()));
}

TEST_F(ServerTest, DrainingFinishesRunningStreamsAndRefusesNewConnections) {
  Start();
  DecodeScript script = Says("Hello");
  script.wait_for_release = true;
  worker_->SetDecode(script);
  HttpClient running = Client();
  running.Send(HttpClient::Format("POST", "/v1/completions", R"({"prompt":"x","stream":true})"));
  HttpClient idle = Client();
  EXPECT_EQ(idle.Get("/health").status, 200);
  ASSERT_TRUE(FakeWorker::Eventually([&] { return worker_->running() > 0; }));
  std::thread drain([&] { server_->Drain(); });
  EXPECT_TRUE(idle.AtEnd());  // closed between two requests
  EXPECT_TRUE(FakeWorker::Eventually([&] { return HttpClient(server_->http_port()).AtEnd(); }));
  worker_->Release();
  EXPECT_EQ(running.Read().events().back(), "[DONE]");
  drain.join();
  EXPECT_TRUE(Quiet());
}

TEST_F(ServerTest, ReadinessGoesFirst) {
  config_.set_drain_grace_ms(1500);
  Start();
  std::thread drain([&] { server_->Drain(); });
  EXPECT_TRUE(FakeWorker::Eventually([&] { return Get("/readiness").status == 503; }));
  EXPECT_EQ(Post("/v1/completions", {{"prompt", "x"}}).status, 200);  // still accepting
  drain.join();
}

TEST_F(ServerTest, AStreamOverTheDrainTimeoutGetsAnError) {
  config_.set_drain_timeout_ms(50);
  Start();
  worker_->SetDecode({.steps = Steps(Ids("Hello")), .hang = true});
  HttpClient client = Client();
  client.Send(HttpClient::Format("POST", "/v1/completions", R"({"prompt":"x","stream":true})"));
  client.ReadUntil("data: ");
  server_->Drain();
  EXPECT_THAT(client.ReadUntil("shutting down"), HasSubstr("shutting down"));
  EXPECT_TRUE(Quiet());
}

TEST_F(ServerTest, EndsWhileRequestsRun) {
  Start();
  worker_->SetDecode({.steps = Steps(Ids("Hello")), .hang = true});
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (int i = 0; i < 8; ++i) {
    clients.push_back(std::make_unique<HttpClient>(server_->http_port()));
    clients.back()->Send(
        HttpClient::Format("POST", "/v1/completions", R"({"prompt":"x","stream":true})"));
    clients.back()->ReadUntil("data: ");
  }
  server_.reset();
  EXPECT_TRUE(FakeWorker::Eventually([&] { return worker_->running() == 0; }));
}

}  // namespace
}  // namespace baleen::router
