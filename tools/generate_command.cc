#include "tools/generate_command.h"

#include <iostream>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"
#include "tools/arguments.h"
#include "tools/cluster_commands.h"
#include "tools/http_client.h"

namespace baleen::tools {
namespace {

using Json = nlohmann::ordered_json;

std::string TextOf(const Json& object, const char* name) {
  const auto it = object.find(name);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

// The number given for `option`, under `field` of the request; nothing when it is absent.
template <typename Number>
absl::Status AddNumber(const Arguments& arguments, const char* option, const char* field,
                       bool (*parse)(absl::string_view, Number*), Json* body) {
  if (!arguments.Has(option)) return absl::OkStatus();
  Number value = 0;
  if (!parse(arguments.Get(option), &value))
    return absl::InvalidArgumentError(absl::StrCat("--", option, ": not a number"));
  (*body)[field] = value;
  return absl::OkStatus();
}

bool ParseInt(absl::string_view text, int64_t* value) { return absl::SimpleAtoi(text, value); }
bool ParseDouble(absl::string_view text, double* value) { return absl::SimpleAtod(text, value); }

struct Question {
  HttpUrl url;
  std::string path;
  std::string body;
};

absl::StatusOr<Question> ReadQuestion(std::span<const std::string> args) {
  BALEEN_ASSIGN_OR_RETURN(
      const Arguments arguments,
      ParseArguments(args, {"url", "chat", "prompt", "max-tokens", "temperature", "seed"},
                     {"thinking"}));
  const bool chat = arguments.Has("chat");
  if (chat == arguments.Has("prompt") || !arguments.words.empty())
    return absl::InvalidArgumentError("give one of --chat TEXT and --prompt TEXT");
  if (arguments.Has("thinking") && !chat)
    return absl::InvalidArgumentError("--thinking goes with --chat");
  Question question;
  BALEEN_ASSIGN_OR_RETURN(question.url, ParseHttpUrl(arguments.Get("url", kDefaultUrl)));
  question.path = chat ? "/v1/chat/completions" : "/v1/completions";
  Json body = {{"stream", true}};
  if (chat)
    body["messages"] = Json::array({{{"role", "user"}, {"content", arguments.Get("chat")}}});
  else
    body["prompt"] = arguments.Get("prompt");
  if (arguments.Has("thinking")) body["chat_template_kwargs"] = {{"thinking", true}};
  BALEEN_RETURN_IF_ERROR(AddNumber(arguments, "max-tokens", "max_tokens", ParseInt, &body));
  BALEEN_RETURN_IF_ERROR(AddNumber(arguments, "temperature", "temperature", ParseDouble, &body));
  BALEEN_RETURN_IF_ERROR(AddNumber(arguments, "seed", "seed", ParseInt, &body));
  // The arguments of a command line need not be UTF-8; the router refuses what is not.
  question.body = body.dump(-1, ' ', false, Json::error_handler_t::replace);
  return question;
}

absl::Status Answer(const Question& question) {
  StreamPrinter printer(std::cout);
  BALEEN_ASSIGN_OR_RETURN(
      const HttpResponse response,
      HttpClient(question.url)
          .PostStreaming(question.path, question.body,
                         [&](absl::string_view piece) { return printer.Feed(piece); }));
  BALEEN_RETURN_IF_ERROR(ToStatus(response));
  return printer.Finish();
}

}  // namespace

absl::Status StreamPrinter::Feed(absl::string_view piece) {
  events_.Feed(piece);
  while (const auto data = events_.Next()) BALEEN_RETURN_IF_ERROR(OnEvent(*data));
  return absl::OkStatus();
}

absl::Status StreamPrinter::OnEvent(const std::string& data) {
  if (data == "[DONE]") {
    done_ = true;
    return absl::OkStatus();
  }
  const Json event = Json::parse(data, nullptr, false);
  if (!event.is_object()) return absl::DataLossError("the stream has an event that is not JSON");
  if (const auto error = event.find("error"); error != event.end())
    return absl::AbortedError(error->is_object() ? TextOf(*error, "message") : error->dump());
  const auto choices = event.find("choices");
  if (choices == event.end() || !choices->is_array() || choices->empty()) return absl::OkStatus();
  const Json& choice = choices->front();
  if (const auto delta = choice.find("delta"); delta != choice.end() && delta->is_object())
    Print(TextOf(*delta, "reasoning_content"), TextOf(*delta, "content"));
  else
    Print("", TextOf(choice, "text"));
  return absl::OkStatus();
}

void StreamPrinter::Print(const std::string& reasoning, const std::string& content) {
  if (!reasoning.empty()) out_ << (std::exchange(thinking_, true) ? "" : "<think>") << reasoning;
  if (!content.empty()) out_ << (std::exchange(thinking_, false) ? "</think>\n" : "") << content;
  out_.flush();
}

absl::Status StreamPrinter::Finish() {
  out_ << (std::exchange(thinking_, false) ? "</think>\n" : "\n") << std::flush;
  if (!done_) return absl::DataLossError("the stream ended early");
  return absl::OkStatus();
}

int RunGenerate(std::span<const std::string> args) {
  const absl::StatusOr<Question> question = ReadQuestion(args);
  if (!question.ok()) {
    std::cerr << "baleenctl generate: " << question.status().message() << "\nusage: baleenctl "
              << kGenerateUsage << "\n";
    return 2;
  }
  const absl::Status status = Answer(*question);
  if (!status.ok()) std::cerr << "baleenctl generate: " << status.message() << "\n";
  return status.ok() ? 0 : 1;
}

}  // namespace baleen::tools
