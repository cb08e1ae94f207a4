#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/check.h"
#include "gmock/gmock.h"
#include "proto/config.pb.h"
#include "router/http/http_server.h"
#include "router/server.h"
#include "testing/fake_worker.h"
#include "testing/http_client.h"

namespace baleen::router {

using baleen::testing::DecodeScript;
using baleen::testing::FakeWorker;
using baleen::testing::HttpClient;
using baleen::testing::HttpReply;
using baleen::testing::PrefillScript;
using baleen::testing::Step;
using baleen::testing::Steps;
using nlohmann::json;

inline constexpr uint32_t kEosToken = 1;

// A whole router on ports of its own, with the tiny checkpoint's tokenizer, and fake workers.
class RouterFixture : public ::testing::Test {
 protected:
  RouterFixture() {
    config_.set_model(BALEEN_SOURCE_DIR "/models/tiny-dsv32");
    config_.set_model_name("tiny");
    config_.set_host("127.0.0.1");
    config_.set_http_port(0);
    config_.set_grpc_port(0);
    config_.set_drain_grace_ms(0);
  }

  // Tests may change config_ before.
  void StartRouter() {
    auto server = Server::Create(config_, shutdown_);
    BALEEN_CHECK_MSG(server.ok(), server.status().ToString().c_str());
    server_ = *std::move(server);
  }
  std::unique_ptr<FakeWorker> MakeWorker(FakeWorker::Options options = {}) {
    options.router = "127.0.0.1:" + std::to_string(server_->grpc_port());
    auto worker = std::make_unique<FakeWorker>(std::move(options));
    return worker;
  }
  // A router and one ready pair.
  void Start() {
    StartRouter();
    worker_ = MakeWorker();
    ASSERT_TRUE(FakeWorker::Eventually([&] { return Ready(); }));
  }
  bool Ready() { return server_->context().directory.View()->HasReadyPair(); }

  HttpClient Client() { return HttpClient(server_->http_port()); }
  HttpReply Post(const std::string& path, const json& body) { return Client().Post(path, body); }
  HttpReply Get(const std::string& path) { return Client().Get(path); }

  std::vector<uint32_t> Ids(const std::string& text) {
    const auto ids = server_->context().model.tokenizer->Encode(text);
    BALEEN_CHECK(ids.ok());
    return {ids->begin(), ids->end()};
  }
  // The worker answers with this text, a token a step, and the end of sentence.
  DecodeScript Says(const std::string& text) {
    std::vector<uint32_t> ids = Ids(text);
    ids.push_back(kEosToken);
    return {.steps = Steps(ids)};
  }
  static json Chat(const std::string& text) {
    return {{"model", "tiny"}, {"messages", {{{"role", "user"}, {"content", text}}}}};
  }
  // Everything given back: no request, no call, no assigned token.
  ::testing::AssertionResult Quiet() {
    const auto quiet = [&] {
      const auto view = server_->context().directory.View();
      for (const auto* groups : {&view->prefill, &view->decode})
        for (const GroupView& g : *groups)
          for (const Assigned& a : g.assigned)
            if (a.requests != 0 || a.tokens != 0) return false;
      return server_->context().dispatcher.live() == 0 && server_->context().registry.size() == 0 &&
             server_->context().metrics.attempts.Value() == 0 &&
             server_->context().metrics.requests.Value() == 0 &&
             (worker_ == nullptr || worker_->running() == 0);
    };
    if (FakeWorker::Eventually(quiet)) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure()
           << server_->context().dispatcher.live() << " live, "
           << server_->context().registry.size() << " registered, "
           << server_->context().metrics.attempts.Value() << " attempts, "
           << server_->context().metrics.requests.Value() << " running, "
           << (worker_ == nullptr ? 0 : worker_->running()) << " worker calls";
  }

  ShutdownSignal shutdown_;
  v1::RouterConfig config_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<FakeWorker> worker_;
};

// The text of all deltas of a streamed answer, by field.
inline std::string Joined(const std::vector<json>& events, const std::string& field) {
  std::string text;
  for (const json& e : events) {
    if (!e.is_object() || !e.contains("choices") || e["choices"].empty()) continue;
    const json& choice = e["choices"][0];
    const json& from = choice.contains("delta") ? choice["delta"] : choice;
    if (from.contains(field) && from[field].is_string()) text += from[field].get<std::string>();
  }
  return text;
}

}  // namespace baleen::router
