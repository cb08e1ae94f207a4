#include "router/http/routes.h"

#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "router/api/api_error.h"
#include "router/http/generation.h"
#include "router/http/info_routes.h"

namespace baleen::router {

namespace asio = boost::asio;
using boost::beast::http::verb;

namespace {

using Handler = asio::awaitable<void> (*)(Exchange&);

asio::awaitable<void> Chat(Exchange& e) { return ServeGeneration(e, &PrepareChat); }
asio::awaitable<void> Completions(Exchange& e) { return ServeGeneration(e, &PrepareCompletions); }
asio::awaitable<void> Generate(Exchange& e) { return ServeGeneration(e, &PrepareGenerate); }

asio::awaitable<void> NotOffered(Exchange& e) {
  co_await e.ReplyError(absl::UnimplementedError(absl::StrCat(e.endpoint, " is not offered")));
}

// By path; GET includes HEAD.
const std::map<std::string, std::pair<verb, Handler>>& Table() {
  static const auto* const table = new std::map<std::string, std::pair<verb, Handler>>{
      {"/", {verb::get, &ServeVersion}},
      {"/health", {verb::get, &ServeAlive}},
      {"/liveness", {verb::get, &ServeAlive}},
      {"/readiness", {verb::get, &ServeReadiness}},
      {"/metrics", {verb::get, &ServeMetrics}},
      {"/version", {verb::get, &ServeVersion}},
      {"/v1/models", {verb::get, &ServeModels}},
      {"/workers", {verb::get, &ServeWorkers}},
      {"/server_info", {verb::get, &ServeServerInfo}},
      {"/get_server_info", {verb::get, &ServeServerInfo}},
      {"/model_info", {verb::get, &ServeModelInfo}},
      {"/get_model_info", {verb::get, &ServeModelInfo}},
      {"/tokenizer_info", {verb::get, &ServeTokenizerInfo}},
      {"/v1/loads", {verb::get, &ServeWorkers}},
      {"/v1/chat/completions", {verb::post, &Chat}},
      {"/v1/completions", {verb::post, &Completions}},
      {"/generate", {verb::post, &Generate}},
      {"/tokenize", {verb::post, &ServeTokenize}},
      {"/detokenize", {verb::post, &ServeDetokenize}},
      {"/abort_request", {verb::post, &ServeAbort}},
      {"/flush_cache", {verb::post, &ServeFlushCache}},
      {"/reset_prefix_cache", {verb::post, &ServeFlushCache}},
      {"/start_profile", {verb::post, &NotOffered}},
      {"/stop_profile", {verb::post, &NotOffered}},
      {"/v1/responses", {verb::post, &NotOffered}},
      {"/v1/embeddings", {verb::post, &NotOffered}},
  };
  return *table;
}

bool Accepts(verb wanted, verb given) {
  return given == wanted || (wanted == verb::get && given == verb::head);
}

const char* Name(verb method) {
  return method == verb::get ? "GET, HEAD, OPTIONS" : "POST, OPTIONS";
}

// Plain functions: GCC 12 cannot compile braced lists in a coroutine.
asio::awaitable<void> ReplyPreflight(Exchange& exchange) {
  const Exchange::Headers headers = {{"Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS"},
                                     {"Access-Control-Allow-Headers", "*, Authorization"},
                                     {"Access-Control-Max-Age", "86400"}};
  return exchange.Reply(204, "", "", headers);
}

asio::awaitable<void> ReplyNotAllowed(Exchange& exchange, verb wanted) {
  const ErrorReply error = ToErrorReply(WithHttpStatus(
      absl::InvalidArgumentError(absl::StrCat(exchange.path(), " takes ", Name(wanted))), 405));
  const Exchange::Headers headers = {{"Allow", Name(wanted)}};
  return exchange.Reply(405, "application/json", error.json, headers);
}

}  // namespace

asio::awaitable<void> Route(Exchange& exchange) {
  const verb method = exchange.request().method();
  const std::string path(exchange.path());
  if (method == verb::options) {
    exchange.endpoint = "options";
    co_return co_await ReplyPreflight(exchange);
  }
  if (const auto it = Table().find(path); it != Table().end()) {
    exchange.endpoint = path;
    const auto& [wanted, handler] = it->second;
    if (!Accepts(wanted, method)) co_return co_await ReplyNotAllowed(exchange, wanted);
    co_return co_await handler(exchange);
  }
  if (absl::StartsWith(path, "/v1/models/") && Accepts(verb::get, method)) {
    exchange.endpoint = "/v1/models/{id}";
    co_return co_await ServeOneModel(exchange);
  }
  if (absl::StartsWith(path, "/workers/") && method == verb::post) {
    exchange.endpoint = "/workers/{group}/{command}";
    co_return co_await ServeWorkerCommand(exchange);
  }
  co_await exchange.ReplyError(absl::NotFoundError(absl::StrCat("there is no ", path)));
}

}  // namespace baleen::router
