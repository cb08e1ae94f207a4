#pragma once

#include "spdlog/spdlog.h"

namespace baleen {

// Sets the process's logger: one line a message on stderr, with `name` (e.g. "prefill/1") in it.
// The level comes from BALEEN_LOG (trace, debug, info, warn, error), default info. Call once in
// main. Log with spdlog::info(...) and friends. Never log prompts or generated text.
void InitLog(const char* name);

}  // namespace baleen
