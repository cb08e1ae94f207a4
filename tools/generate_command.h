#pragma once

#include <ostream>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "tools/sse_reader.h"

namespace baleen::tools {

inline constexpr char kGenerateUsage[] =
    "generate --chat TEXT | --prompt TEXT [--url URL] [--max-tokens N] [--temperature T] [--seed "
    "S] "
    "[--thinking]";

// Prints the text of a streamed completion, of chat or of a plain prompt, as it comes. Reasoning is
// shown before the answer, between <think> and </think>.
class StreamPrinter {
 public:
  explicit StreamPrinter(std::ostream& out) : out_(out) {}

  // Takes any piece of the event stream; an error event is returned as Aborted with its message.
  absl::Status Feed(absl::string_view piece);
  // Call at the end of the stream: DataLoss if it ended without "[DONE]".
  absl::Status Finish();

 private:
  absl::Status OnEvent(const std::string& data);
  void Print(const std::string& reasoning, const std::string& content);

  std::ostream& out_;
  SseReader events_;
  bool thinking_ = false;
  bool done_ = false;
};

// `baleenctl generate`: the arguments after the subcommand; the answer to stdout. Returns the exit
// status: 0, 1 with a message on stderr, or 2 for wrong arguments.
int RunGenerate(std::span<const std::string> args);

}  // namespace baleen::tools
