#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>

#include "common/clock.h"
#include "router/dispatcher.h"
#include "router/model_info.h"
#include "router/request_registry.h"
#include "router/router_metrics.h"
#include "router/worker_directory.h"

namespace boost::asio {
class thread_pool;
}

namespace baleen::router {

// A request of this size or more is parsed and tokenised on RouterContext::heavy.
inline constexpr size_t kHeavyBodyBytes = 100 << 10;

enum class GroupCommand : uint8_t { kDrain, kUndrain };

// Sends commands to registered groups. Any thread; never blocks.
class GroupCommander {
 public:
  virtual ~GroupCommander() = default;
  // False when the group is not registered here.
  virtual bool Send(GroupId group, GroupCommand command) = 0;
  // Tells a prefill group to forget its cached prefixes. It has once GroupView::flushed has reached
  // the number returned; nullopt when the group is not registered here.
  virtual std::optional<uint64_t> FlushCache(GroupId group) = 0;
};

// What both front ends work with. Everything outlives them.
struct RouterContext {
  const ModelInfo& model;
  WorkerDirectory& directory;
  Dispatcher& dispatcher;
  RequestRegistry& registry;
  GroupCommander& commander;
  RouterMetrics& metrics;
  boost::asio::thread_pool& heavy;  // for what would hold an I/O or callback thread for long
  const Clock& clock;
  const std::atomic<bool>& draining;  // SIGTERM came: not ready any more
  Duration flush_timeout;             // for a prefill group's answer to FlushCache
};

inline constexpr char kVersion[] = "0.1.0";

}  // namespace baleen::router
