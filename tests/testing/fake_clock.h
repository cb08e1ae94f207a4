#pragma once

#include <atomic>

#include "common/clock.h"

namespace baleen::testing {

// Time moves only when told. Any thread.
class FakeClock final : public Clock {
 public:
  TimePoint Now() const override { return TimePoint(Duration(now_.load())); }
  void Advance(Duration d) { now_ += d.count(); }

 private:
  std::atomic<Duration::rep> now_{Duration(std::chrono::hours(1)).count()};
};

}  // namespace baleen::testing
