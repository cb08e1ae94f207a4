#include "router/http/flush_cache.h"

#include <algorithm>

#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "absl/strings/str_cat.h"
#include "router/api/json.h"

namespace baleen::router {

namespace asio = boost::asio;

namespace {

constexpr std::chrono::milliseconds kLook(10);  // groups report every 100 ms

struct Flush {
  std::string name;
  GroupId group;
  uint64_t number;  // of GroupCommander::FlushCache
};
using Flushes = std::vector<Flush>;

absl::Status Unflushed(absl::StatusCode code, absl::string_view name, absl::string_view why) {
  return absl::Status(
      code, absl::StrCat("prefill group ", name, " ", why, ": its prefix cache may not be empty"));
}

absl::StatusOr<Flushes> Send(RouterContext& context, const std::string& name) {
  Flushes flushes;
  const auto view = context.directory.View();  // a report on the way may replace the directory's
  for (const GroupView& g : view->prefill) {
    if (!name.empty() && g.identity->name != name) continue;
    const auto number = context.commander.FlushCache(g.id);
    if (!number) return Unflushed(absl::StatusCode::kUnavailable, g.identity->name, "is gone");
    flushes.push_back({g.identity->name, g.id, *number});
  }
  if (flushes.empty() && !name.empty())
    return absl::NotFoundError(absl::StrCat("no prefill group \"", name, "\" is registered"));
  return flushes;
}

// Takes those that are done out of `flushes`.
absl::Status Look(const ClusterView& view, Flushes* flushes) {
  for (auto it = flushes->begin(); it != flushes->end();) {
    const auto group = std::find_if(view.prefill.begin(), view.prefill.end(),
                                    [&](const GroupView& g) { return g.id == it->group; });
    if (group == view.prefill.end())
      return Unflushed(absl::StatusCode::kUnavailable, it->name, "is gone");
    it = group->flushed >= it->number ? flushes->erase(it) : it + 1;
  }
  return absl::OkStatus();
}

asio::awaitable<absl::Status> WaitForAll(Exchange& exchange, Flushes flushes) {
  const RouterContext& context = exchange.context();
  const TimePoint deadline = context.clock.Now() + context.flush_timeout;
  asio::steady_timer timer(exchange.connection().executor());
  while (true) {
    absl::Status status = Look(*context.directory.View(), &flushes);
    if (!status.ok() || flushes.empty()) co_return status;
    if (context.clock.Now() >= deadline)
      co_return Unflushed(absl::StatusCode::kDeadlineExceeded, flushes.front().name,
                          "did not answer in time");
    timer.expires_after(kLook);
    co_await timer.async_wait(asio::use_awaitable);
  }
}

std::string Answer(const Flushes& flushes) {
  Json names = Json::array();
  for (const Flush& flush : flushes) names.push_back(flush.name);
  Json answer = {{"groups", flushes.size()}};
  answer["flushed"] = std::move(names);
  return Dump(answer);
}

}  // namespace

asio::awaitable<void> FlushCache(Exchange& exchange, std::string group) {
  const absl::StatusOr<Flushes> flushes = Send(exchange.context(), group);
  absl::Status status = flushes.status();
  if (status.ok()) status = co_await WaitForAll(exchange, *flushes);
  if (status.ok())
    co_await exchange.ReplyJson(Answer(*flushes));
  else
    co_await exchange.ReplyError(std::move(status));
}

}  // namespace baleen::router
