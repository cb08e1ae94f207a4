#include "common/log.h"

#include <cstdlib>

#include "spdlog/sinks/stdout_color_sinks.h"

namespace baleen {

void InitLog(const char* name) {
  auto logger = spdlog::stderr_color_mt(name);
  logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %L %n: %v");
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  const char* level = std::getenv("BALEEN_LOG");
  if (level != nullptr) spdlog::set_level(spdlog::level::from_str(level));
}

}  // namespace baleen
