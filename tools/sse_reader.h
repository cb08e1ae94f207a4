#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace baleen::tools {

// Cuts a server-sent event stream, fed in pieces of any size, into the data of its events. Lines
// other than "data:" are skipped.
class SseReader {
 public:
  void Feed(absl::string_view piece) { buffer_.append(piece.data(), piece.size()); }

  // The data of the next whole event, or nothing until more was fed.
  std::optional<std::string> Next();

 private:
  std::string buffer_;
};

}  // namespace baleen::tools
