// The endpoints that do not generate, and every refusal.
#include "router/http/routes.h"

#include <filesystem>

#include "router/router_fixture.h"

namespace baleen::router {
namespace {

using ::testing::HasSubstr;

class RoutesTest : public RouterFixture {};

TEST_F(RoutesTest, ReadinessNeedsAPair) {
  StartRouter();
  EXPECT_EQ(Get("/health").status, 200);
  EXPECT_EQ(Get("/liveness").status, 200);
  const HttpReply not_ready = Get("/readiness");
  EXPECT_EQ(not_ready.status, 503);
  EXPECT_EQ(not_ready.headers.at("retry-after"), "1");
  worker_ = MakeWorker();
  EXPECT_TRUE(FakeWorker::Eventually([&] { return Get("/readiness").status == 200; }));
}

TEST_F(RoutesTest, DescribesTheModelAndTheServer) {
  Start();
  const json models = Get("/v1/models").json();
  EXPECT_EQ(models["data"][0]["id"], "tiny");
  EXPECT_EQ(models["data"][0]["max_model_len"], 16384);
  EXPECT_EQ(Get("/v1/models/tiny").json()["id"], "tiny");
  EXPECT_EQ(Get("/v1/models/gpt").status, 404);
  EXPECT_EQ(Get("/version").json()["name"], "baleen");
  for (const char* path : {"/server_info", "/get_server_info"})
    EXPECT_EQ(Get(path).json()["internal_states"].size(), 1u);
  for (const char* path : {"/model_info", "/get_model_info"})
    EXPECT_TRUE(Get(path).json()["is_generation"].get<bool>());
  EXPECT_EQ(Get("/v1/models?limit=3").status, 200);
}

TEST_F(RoutesTest, AModelsNameMayBePercentEncoded) {
  config_.set_model_name("deepseek-ai/DeepSeek-V3.2");
  StartRouter();
  for (const char* id : {"deepseek-ai%2FDeepSeek-V3.2", "deepseek-ai/DeepSeek-V3.2"})
    EXPECT_EQ(Get(std::string("/v1/models/") + id).json()["id"], "deepseek-ai/DeepSeek-V3.2");
  const HttpReply other = Get("/v1/models/a%2Fb%FF");
  EXPECT_EQ(other.status, 404);
  EXPECT_THAT(other.json()["error"]["message"].get<std::string>(), HasSubstr("\"a/b\uFFFD\""));
}

TEST_F(RoutesTest, TokenizerInfoIsTheCheckpointsIfItHasOne) {
  StartRouter();
  const json info = Get("/tokenizer_info").json();
  EXPECT_EQ(info["eos_token"], "<｜end▁of▁sentence｜>");
  const json ids =
      Post("/tokenize", {{"prompt", info["eos_token"]}, {"add_special_tokens", false}}).json();
  EXPECT_EQ(ids["tokens"], json::array({kEosToken}));
  server_.reset();

  namespace fs = std::filesystem;
  const fs::path bare = fs::path(::testing::TempDir()) / "without_tokenizer_config";
  fs::create_directories(bare);
  for (const char* file : {"config.json", "tokenizer.json"})
    fs::copy_file(fs::path(config_.model()) / file, bare / file,
                  fs::copy_options::overwrite_existing);
  config_.set_model(bare.string());
  StartRouter();
  const HttpReply none = Get("/tokenizer_info");
  EXPECT_EQ(none.status, 404);
  EXPECT_THAT(none.json()["error"]["message"].get<std::string>(),
              HasSubstr("tokenizer_config.json"));
}

TEST_F(RoutesTest, TokenizeTakesWhatChatTakes) {
  Start();
  json body = Chat("Hi");
  body["tools"] = {{{"type", "function"}, {"function", {{"name", "f"}}}}};
  body["chat_template_kwargs"] = {{"thinking", true}};
  const json tokenized = Post("/tokenize", body).json();
  Post("/v1/chat/completions", body);
  const auto request = worker_->decode_requests().at(0);
  const std::vector<uint32_t> sent(request.prompt_tokens().begin(), request.prompt_tokens().end());
  EXPECT_EQ(tokenized["tokens"].get<std::vector<uint32_t>>(), sent);
  EXPECT_EQ(tokenized["count"], sent.size());
  EXPECT_EQ(tokenized["max_model_len"], 16384);
  const json prompt = Post("/tokenize", {{"prompt", "Hello"}}).json();
  EXPECT_EQ(prompt["tokens"][0], 0);
  EXPECT_EQ(Post("/detokenize", {{"tokens", prompt["tokens"]}, {"skip_special_tokens", true}})
                .json()["prompt"],
            "Hello");
}

TEST_F(RoutesTest, UnknownPathsAndMethodsAreRefusedInJson) {
  StartRouter();
  const HttpReply unknown = Get("/v2/nothing");
  EXPECT_EQ(unknown.status, 404);
  EXPECT_THAT(unknown.json()["error"]["message"].get<std::string>(), HasSubstr("/v2/nothing"));
  const HttpReply method = Get("/v1/chat/completions");
  EXPECT_EQ(method.status, 405);
  EXPECT_THAT(method.headers.at("allow"), HasSubstr("POST"));
  EXPECT_EQ(Client().PostText("/start_profile", "{}").status, 501);
}

TEST_F(RoutesTest, EveryBadRequestIsAClearErrorAndDisturbsNobody) {
  Start();
  struct Case {
    const char* path;
    std::string body;
    int status;
    const char* says;
  };
  const std::string chat = R"({"messages":[{"role":"user","content":"x"}])";
  const Case cases[] = {
      {"/v1/chat/completions", "{", 400, "JSON"},
      {"/v1/chat/completions", "[]", 400, "object"},
      {"/v1/chat/completions", "", 400, "JSON"},
      {"/v1/chat/completions", "{\"messages\":\"\xff\xfe\"}", 400, "UTF-8"},
      {"/v1/chat/completions", "{}", 400, "messages"},
      {"/v1/chat/completions", R"({"messages":[]})", 400, "messages"},
      {"/v1/chat/completions", R"({"messages":[{"role":"king","content":"x"}]})", 400, "role"},
      {"/v1/chat/completions", R"({"messages":[{"role":"tool","content":"x"}]})", 400, "messages"},
      {"/v1/chat/completions", chat + R"(,"model":"gpt-5"})", 404, "gpt-5"},
      {"/v1/chat/completions", chat + R"(,"max_tokens":0})", 400, "max_tokens"},
      {"/v1/chat/completions", chat + R"(,"max_tokens":-1})", 400, "max_tokens"},
      {"/v1/chat/completions", chat + R"(,"n":2})", 400, "n: only 1"},
      {"/v1/chat/completions", chat + R"(,"temperature":NaN})", 400, "JSON"},
      {"/v1/chat/completions", chat + R"(,"temperature":"hot"})", 400, "temperature"},
      {"/v1/chat/completions", chat + R"(,"top_logprobs":5})", 400, "logprobs"},
      {"/v1/chat/completions", chat + R"(,"logprobs":true,"top_logprobs":21})", 400,
       "top_logprobs"},
      {"/v1/completions", R"({"prompt":[1,2,4096]})", 400, "4096"},
      {"/v1/completions", R"({"prompt":[]})", 400, "prompt"},
      {"/v1/completions", json({{"prompt", std::vector<int>(16384, 5)}}).dump(), 400,
       "16384 tokens"},
      {"/generate", R"({"sampling_params":{}})", 400, "text"},
      {"/tokenize", "{}", 400, "prompt"},
      {"/detokenize", R"({"tokens":[99999]})", 400, "99999"},
      {"/abort_request", "{}", 400, "rid"},
  };
  HttpClient client = Client();
  for (const Case& c : cases) {
    const HttpReply reply = client.PostText(c.path, c.body);
    EXPECT_EQ(reply.status, c.status) << c.body.substr(0, 200) << "\n" << reply.body;
    const json error = reply.json()["error"];
    EXPECT_THAT(error["message"].get<std::string>(), HasSubstr(c.says));
    EXPECT_TRUE(error.contains("type") && error.contains("param") && error.contains("code"));
  }
  EXPECT_EQ(
      client.PostText("/v1/completions", json({{"prompt", std::vector<int>(16384, 5)}}).dump())
          .json()["error"]["code"],
      "context_length_exceeded");
  EXPECT_TRUE(worker_->decode_requests().empty());  // no worker heard of any of them
  EXPECT_EQ(Post("/v1/completions", {{"prompt", "x"}}).status, 200);
  EXPECT_TRUE(Quiet());
}

}  // namespace
}  // namespace baleen::router
