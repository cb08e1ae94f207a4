#include "model/checkpoint/progress.h"

#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_format.h"
#include "common/log.h"

namespace baleen::model {
namespace {

std::string Size(double bytes) {
  if (bytes >= 1e9) return absl::StrFormat("%.2f GB", bytes / 1e9);
  return absl::StrFormat("%.1f MB", bytes / 1e6);
}

}  // namespace

Progress::Progress(std::string what, uint64_t total_bytes, bool terminal, const Clock& clock,
                   Print print)
    : what_(std::move(what)),
      total_(total_bytes),
      terminal_(terminal),
      clock_(clock),
      print_(std::move(print)),
      start_(clock.Now()),
      last_print_(start_) {}

void Progress::Add(uint64_t bytes) {
  done_ += bytes;
  const uint64_t percent = total_ == 0 ? 100 : done_ * 100 / total_;
  const uint64_t step = terminal_ ? 1 : 5;
  const bool finished = done_ >= total_ && printed_percent_ < 100;
  const TimePoint now = clock_.Now();
  const auto pause = terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(1000);
  if (!finished && (percent < printed_percent_ + step || now - last_print_ < pause)) return;
  printed_percent_ = percent - percent % step;
  last_print_ = now;
  print_(Line(now), terminal_ && !finished);
}

std::string Progress::Line(TimePoint now) const {
  const double seconds = Seconds(now - start_);
  const double rate = seconds > 0 ? double(done_) / seconds : 0;
  const int percent = total_ == 0 ? 100 : static_cast<int>(done_ * 100 / total_);
  std::string line = absl::StrFormat("%s: %d %% of %s", what_, percent, Size(double(total_)));
  if (rate > 0) absl::StrAppendFormat(&line, ", %s/s", Size(rate));
  if (done_ < total_ && rate > 0) {
    absl::StrAppendFormat(&line, ", %.0f s left", double(total_ - done_) / rate);
  } else {
    absl::StrAppendFormat(&line, ", %.1f s", seconds);
  }
  return line;
}

bool StderrIsTerminal() { return isatty(STDERR_FILENO) != 0; }

void PrintProgress(const std::string& line, bool rewrite) {
  if (!StderrIsTerminal()) {
    spdlog::info("{}", line);
    return;
  }
  std::fprintf(stderr, "\r%s\x1b[K%s", line.c_str(), rewrite ? "" : "\n");
}

}  // namespace baleen::model
