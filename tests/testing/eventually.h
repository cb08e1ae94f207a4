#pragma once

#include <chrono>
#include <thread>

#include "common/clock.h"

namespace baleen::testing {

// Waits until `condition` holds; false: it did not within `limit`.
template <typename Condition>
bool Eventually(Condition condition, Duration limit = std::chrono::seconds(20)) {
  const TimePoint deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // between two looks
  }
  return true;
}

}  // namespace baleen::testing
