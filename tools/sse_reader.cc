#include "tools/sse_reader.h"

#include "absl/strings/strip.h"

namespace baleen::tools {

std::optional<std::string> SseReader::Next() {
  while (true) {
    const size_t end = buffer_.find('\n');
    if (end == std::string::npos) return std::nullopt;
    absl::string_view line(buffer_.data(), end);
    absl::ConsumeSuffix(&line, "\r");
    const bool is_data = absl::ConsumePrefix(&line, "data:");
    absl::ConsumePrefix(&line, " ");
    std::string data(line);
    buffer_.erase(0, end + 1);
    // The router writes each event as one data line, so the line is the event.
    if (is_data) return data;
  }
}

}  // namespace baleen::tools
