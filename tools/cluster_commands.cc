#include "tools/cluster_commands.h"

#include <algorithm>
#include <chrono>
#include <iostream>
#include <map>
#include <thread>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"
#include "tools/arguments.h"
#include "tools/http_client.h"

namespace baleen::tools {
namespace {

using Json = nlohmann::json;

// Runs one subcommand: parses what all have in common, prints its error.
template <typename Body>
int Run(const char* name, std::span<const std::string> args, size_t words,
        const std::set<std::string>& options, Body body) {
  std::set<std::string> with_value = options;
  with_value.insert("url");
  absl::StatusOr<Arguments> parsed = ParseArguments(args, with_value);
  if (parsed.ok() && parsed->words.size() != words)
    parsed = absl::InvalidArgumentError(
        absl::StrCat("takes ", words, " argument(s), got ", parsed->words.size()));
  absl::StatusOr<HttpUrl> url =
      parsed.ok() ? ParseHttpUrl(parsed->Get("url", kDefaultUrl)) : parsed.status();
  if (!url.ok()) {
    std::cerr << "baleenctl " << name << ": " << url.status().message() << "\n";
    return 2;
  }
  const absl::Status status = body(HttpClient(*std::move(url)), *parsed);
  if (status.ok()) return 0;
  std::cerr << "baleenctl " << name << ": " << status.message() << "\n";
  return 1;
}

absl::StatusOr<Json> GetJson(const HttpClient& client, const std::string& path) {
  BALEEN_ASSIGN_OR_RETURN(const HttpResponse response, client.Get(path));
  BALEEN_RETURN_IF_ERROR(ToStatus(response));
  Json json = Json::parse(response.body, nullptr, false);
  if (json.is_discarded()) return absl::UnknownError(absl::StrCat(path, ": not JSON"));
  return json;
}

std::string Text(const Json& object, const char* name) {
  if (!object.is_object() || !object.contains(name)) return "-";
  const Json& value = object[name];
  if (value.is_number_float()) return absl::StrFormat("%.2f", value.get<double>());
  const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  return text.empty() ? "-" : text;
}

const Json& List(const Json& object, const char* name) {
  static const Json* const kEmpty = new Json(Json::array());
  if (!object.is_object() || !object.contains(name) || !object[name].is_array()) return *kEmpty;
  return object[name];
}

// Columns as wide as their widest cell.
std::string Align(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string table;
  for (const auto& row : rows) {
    for (size_t c = 0; c + 1 < row.size(); ++c)
      absl::StrAppendFormat(&table, "%-*s  ", static_cast<int>(widths[c]), row[c]);
    absl::StrAppend(&table, row.back(), "\n");
  }
  return table;
}

absl::Status PrintStatus(const HttpClient& client, const Arguments&) {
  BALEEN_ASSIGN_OR_RETURN(const HttpResponse ready, client.Get("/readiness"));
  BALEEN_ASSIGN_OR_RETURN(const Json models, GetJson(client, "/v1/models"));
  BALEEN_ASSIGN_OR_RETURN(const Json workers, GetJson(client, "/workers"));
  const absl::Status readiness = ToStatus(ready);
  std::cout << (readiness.ok() ? "ready" : absl::StrCat("not ready: ", readiness.message()))
            << "\n";
  for (const Json& model : List(models, "data"))
    std::cout << "model " << Text(model, "id") << ", context " << Text(model, "max_model_len")
              << " tokens\n";
  std::map<std::pair<std::string, std::string>, int> groups;
  for (const Json& group : List(workers, "workers"))
    ++groups[{Text(group, "role"), Text(group, "state")}];
  for (const auto& [key, count] : groups)
    std::cout << count << " " << key.first << " group(s) " << key.second << "\n";
  return absl::OkStatus();
}

absl::Status PrintWorkers(const HttpClient& client, const Arguments&) {
  BALEEN_ASSIGN_OR_RETURN(const HttpResponse response, client.Get("/workers"));
  BALEEN_RETURN_IF_ERROR(ToStatus(response));
  BALEEN_ASSIGN_OR_RETURN(const std::string table, WorkersTable(response.body));
  std::cout << table;
  return absl::OkStatus();
}

absl::Status Command(const HttpClient& client, const std::string& path) {
  BALEEN_ASSIGN_OR_RETURN(const HttpResponse response, client.Post(path, "{}"));
  return ToStatus(response);
}

// A name becomes part of a path as it is.
bool IsGroupNameChar(char c) { return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.'; }

int RunGroupCommand(const char* command, const char* done, std::span<const std::string> args) {
  return Run(command, args, 1, {}, [&](const HttpClient& client, const Arguments& arguments) {
    const std::string& group = arguments.words[0];
    if (!std::all_of(group.begin(), group.end(), IsGroupNameChar))
      return absl::InvalidArgumentError(absl::StrCat("\"", group, "\" is not a group's name"));
    BALEEN_RETURN_IF_ERROR(Command(client, absl::StrCat("/workers/", group, "/", command)));
    std::cout << group << done << "\n";
    return absl::OkStatus();
  });
}

// The router does not profile yet: say so rather than "HTTP 501".
absl::Status ProfileCommand(const HttpClient& client, const std::string& path) {
  BALEEN_ASSIGN_OR_RETURN(const HttpResponse response, client.Post(path, "{}"));
  if (response.status == 404 || response.status == 501)
    return absl::UnimplementedError("this router does not offer profiling yet");
  return ToStatus(response);
}

absl::Status Profile(const HttpClient& client, const Arguments& arguments) {
  int seconds = 0;
  if (!absl::SimpleAtoi(arguments.Get("seconds", "5"), &seconds) || seconds < 1)
    return absl::InvalidArgumentError("--seconds must be an integer of at least 1");
  BALEEN_RETURN_IF_ERROR(ProfileCommand(client, "/start_profile"));
  std::this_thread::sleep_for(std::chrono::seconds(seconds));
  return ProfileCommand(client, "/stop_profile");
}

}  // namespace

absl::StatusOr<std::string> WorkersTable(absl::string_view workers_json) {
  const Json json = Json::parse(workers_json.begin(), workers_json.end(), nullptr, false);
  if (!json.is_object() || !json.contains("workers") || !json["workers"].is_array())
    return absl::InvalidArgumentError("the answer is not a list of workers");
  std::vector<std::vector<std::string>> rows = {{"GROUP", "ROLE", "STATE", "INDEX", "PID", "FREE",
                                                 "PAGES", "QUARANTINE", "RUNNING", "WAITING",
                                                 "ACCEPT", "TRANSPORTS"}};
  for (const Json& group : json["workers"]) {
    for (const Json& member : List(group, "members"))
      rows.push_back({Text(group, "group"), Text(group, "role"), Text(group, "state"),
                      Text(member, "index"), Text(member, "pid"), Text(member, "free_pages"),
                      Text(member, "total_pages"), Text(member, "quarantined_pages"),
                      Text(member, "running"), Text(member, "waiting"),
                      Text(member, "accept_length"), Text(member, "transports")});
  }
  return Align(rows);
}

int RunStatus(std::span<const std::string> args) { return Run("status", args, 0, {}, PrintStatus); }
int RunWorkers(std::span<const std::string> args) {
  return Run("workers", args, 0, {}, PrintWorkers);
}
int RunDrain(std::span<const std::string> args) {
  return RunGroupCommand("drain", " drains", args);
}
int RunUndrain(std::span<const std::string> args) {
  return RunGroupCommand("undrain", " takes work again", args);
}
int RunFlush(std::span<const std::string> args) {
  return Run("flush", args, 0, {}, [](const HttpClient& client, const Arguments&) {
    BALEEN_RETURN_IF_ERROR(Command(client, "/flush_cache"));
    std::cout << "prefix caches flushed\n";
    return absl::OkStatus();
  });
}
int RunProfile(std::span<const std::string> args) {
  return Run("profile", args, 0, {"seconds"}, Profile);
}

}  // namespace baleen::tools
