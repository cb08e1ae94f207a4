#include "common/clock.h"

namespace baleen {
namespace {

class RealClock final : public Clock {
 public:
  TimePoint Now() const override { return std::chrono::steady_clock::now(); }
};

}  // namespace

const Clock& SteadyClock() {
  static const RealClock clock;
  return clock;
}

}  // namespace baleen
