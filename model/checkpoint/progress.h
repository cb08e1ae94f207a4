#pragma once

#include <functional>
#include <string>

#include "common/clock.h"

namespace baleen::model {

// Tells a human how far a long read is: "weights: 45 % of 642.1 GB, 2.31 GB/s, 153 s left".
//
// On a terminal one line is rewritten in place; elsewhere a line is printed for every 5 %, but none
// within a second of the one before, except the last. Threads: one.
class Progress {
 public:
  // `print` gets each line without its end; `rewrite` says that it replaces the one before.
  using Print = std::function<void(const std::string& line, bool rewrite)>;

  Progress(std::string what, uint64_t total_bytes, bool terminal, const Clock& clock, Print print);

  void Add(uint64_t bytes);
  uint64_t bytes() const { return done_; }

 private:
  std::string Line(TimePoint now) const;

  const std::string what_;
  const uint64_t total_;
  const bool terminal_;
  const Clock& clock_;
  const Print print_;
  const TimePoint start_;
  TimePoint last_print_;
  uint64_t done_ = 0;
  uint64_t printed_percent_ = 0;
};

// Prints to stderr (terminal) or the log. `terminal` of the constructor must be StderrIsTerminal().
bool StderrIsTerminal();
void PrintProgress(const std::string& line, bool rewrite);

}  // namespace baleen::model
