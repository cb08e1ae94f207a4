#include "router/http/info_routes.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"
#include "router/api/api_error.h"
#include "router/api/field_reader.h"
#include "router/api/info_json.h"
#include "router/api/requests.h"
#include "router/http/flush_cache.h"
#include "router/http/percent_decode.h"

namespace baleen::router {

namespace asio = boost::asio;

namespace {

asio::awaitable<void> ReplyResult(Exchange& exchange, absl::StatusOr<std::string> json) {
  return json.ok() ? exchange.ReplyJson(*std::move(json)) : exchange.ReplyError(json.status());
}

using Answer = absl::StatusOr<std::string> (*)(Exchange&);

// Runs `answer` where a long body does not hold up other clients.
asio::awaitable<void> ReplyWith(Exchange& exchange, Answer answer) {
  absl::StatusOr<std::string> json = absl::InternalError("no answer");
  if (exchange.body().size() < kHeavyBodyBytes) {
    json = answer(exchange);
  } else {
    co_await asio::co_spawn(
        exchange.context().heavy,
        [&]() -> asio::awaitable<void> {
          json = answer(exchange);
          co_return;
        },
        asio::use_awaitable);
  }
  co_await ReplyResult(exchange, std::move(json));
}

// Braced lists stay out of coroutines: GCC 12 cannot compile them there.
std::string VersionJson() { return Dump({{"name", "baleen"}, {"version", kVersion}}); }

std::string ModelListJson(const RouterContext& context) {
  Json json = {{"object", "list"}};
  json["data"] = Json::array({ModelJson(context.model, *context.directory.View())});
  return Dump(json);
}

absl::StatusOr<std::string> Tokenize(Exchange& exchange) {
  const ModelInfo& model = exchange.context().model;
  BALEEN_ASSIGN_OR_RETURN(const Json body, ParseBody(exchange.body()));
  BALEEN_ASSIGN_OR_RETURN(const TokenIds ids, ParseTokenizeRequest(model, body));
  const int context = exchange.context().directory.View()->MaxContext(model.max_context);
  return Dump({{"count", ids->size()}, {"max_model_len", context}, {"tokens", *ids}});
}

absl::StatusOr<std::string> Detokenize(Exchange& exchange) {
  BALEEN_ASSIGN_OR_RETURN(const Json body, ParseBody(exchange.body()));
  BALEEN_ASSIGN_OR_RETURN(std::string text, ParseDetokenizeRequest(exchange.context().model, body));
  return Dump({{"prompt", text}, {"text", text}});
}

absl::StatusOr<std::string> Abort(Exchange& exchange) {
  BALEEN_ASSIGN_OR_RETURN(const Json body, ParseBody(exchange.body()));
  FieldReader fields(body);
  const auto id = fields.String("rid");
  BALEEN_RETURN_IF_ERROR(fields.status());
  if (!id) return BadParam("rid", "is required");
  return Dump({{"aborted", exchange.context().registry.Abort(*id)}});
}

absl::StatusOr<std::string> Command(Exchange& exchange, const std::string& group,
                                    const std::string& command) {
  GroupCommand what;
  if (command == "drain")
    what = GroupCommand::kDrain;
  else if (command == "undrain")
    what = GroupCommand::kUndrain;
  else
    return absl::NotFoundError(absl::StrCat("no command \"", command, "\""));
  RouterContext& context = exchange.context();
  const auto view = context.directory.View();
  int told = 0;
  for (const auto* groups : {&view->prefill, &view->decode})
    for (const GroupView& g : *groups)
      if (g.identity->name == group) told += context.commander.Send(g.id, what);
  if (told == 0) return absl::NotFoundError(absl::StrCat("no group \"", group, "\" is registered"));
  return Dump({{"groups", told}});
}

}  // namespace

asio::awaitable<void> ServeAlive(Exchange& exchange) {
  co_await exchange.ReplyJson(R"({"status":"ok"})");
}

asio::awaitable<void> ServeReadiness(Exchange& exchange) {
  RouterContext& context = exchange.context();
  if (context.draining)
    co_await exchange.ReplyError(absl::UnavailableError("the router is draining"));
  else if (!context.directory.View()->HasReadyPair())
    co_await exchange.ReplyError(absl::UnavailableError("no prefill and decode worker are ready"));
  else
    co_await exchange.ReplyJson(R"({"status":"ready"})");
}

asio::awaitable<void> ServeMetrics(Exchange& exchange) {
  co_await exchange.Reply(200, "text/plain; version=0.0.4; charset=utf-8",
                          exchange.context().metrics.Serialize());
}

asio::awaitable<void> ServeVersion(Exchange& exchange) {
  co_await exchange.ReplyJson(VersionJson());
}

asio::awaitable<void> ServeModels(Exchange& exchange) {
  co_await exchange.ReplyJson(ModelListJson(exchange.context()));
}

asio::awaitable<void> ServeOneModel(Exchange& exchange) {
  RouterContext& context = exchange.context();
  const std::string id = PercentDecode(exchange.path().substr(sizeof("/v1/models/") - 1));
  if (id == context.model.name)
    co_await exchange.ReplyJson(Dump(ModelJson(context.model, *context.directory.View())));
  else
    co_await exchange.ReplyError(
        WithCode(absl::NotFoundError(absl::StrCat("the model \"", id, "\" does not exist")),
                 "model_not_found"));
}

asio::awaitable<void> ServeWorkers(Exchange& exchange) {
  co_await exchange.ReplyJson(Dump(WorkersJson(*exchange.context().directory.View())));
}

asio::awaitable<void> ServeServerInfo(Exchange& exchange) {
  RouterContext& context = exchange.context();
  co_await exchange.ReplyJson(Dump(ServerInfoJson(context.model, *context.directory.View())));
}

asio::awaitable<void> ServeModelInfo(Exchange& exchange) {
  RouterContext& context = exchange.context();
  co_await exchange.ReplyJson(Dump(ModelInfoJson(context.model, *context.directory.View())));
}

asio::awaitable<void> ServeTokenizerInfo(Exchange& exchange) {
  const std::string& config = exchange.context().model.tokenizer_config;
  if (config.empty())
    co_await exchange.ReplyError(absl::NotFoundError("the model has no tokenizer_config.json"));
  else
    co_await exchange.ReplyJson(config);
}

asio::awaitable<void> ServeTokenize(Exchange& exchange) { return ReplyWith(exchange, &Tokenize); }
asio::awaitable<void> ServeDetokenize(Exchange& exchange) {
  return ReplyWith(exchange, &Detokenize);
}
asio::awaitable<void> ServeAbort(Exchange& exchange) { return ReplyWith(exchange, &Abort); }
asio::awaitable<void> ServeFlushCache(Exchange& exchange) { return FlushCache(exchange, ""); }

asio::awaitable<void> ServeWorkerCommand(Exchange& exchange) {
  const std::vector<std::string> parts = absl::StrSplit(exchange.path(), '/');
  absl::StatusOr<std::string> json =
      absl::NotFoundError("use /workers/GROUP/drain, undrain or flush_cache");
  if (parts.size() == 4 && !parts[2].empty()) {
    if (parts[3] == "flush_cache") co_return co_await FlushCache(exchange, parts[2]);
    json = Command(exchange, parts[2], parts[3]);
  }
  co_await ReplyResult(exchange, std::move(json));
}

}  // namespace baleen::router
