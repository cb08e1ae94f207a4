#pragma once

#include <chrono>

namespace baleen {

using TimePoint = std::chrono::steady_clock::time_point;
using Duration = std::chrono::steady_clock::duration;

// Time is injected, so that tests decide what it is. Steady only: wall-clock jumps change nothing.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint Now() const = 0;
};

// The process's steady clock. Any thread.
const Clock& SteadyClock();

inline double Seconds(Duration d) { return std::chrono::duration<double>(d).count(); }
inline double SecondsSince(TimePoint start) { return Seconds(SteadyClock().Now() - start); }

}  // namespace baleen
