#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace baleen {

// What must be equal in all processes that share KV pages: (field name, value), in a fixed order.
// Made by worker/model_host, checked by the router at registration and by kv_transfer at link-up.
using Fingerprint = std::vector<std::pair<std::string, std::string>>;

// The first difference as "numerics: exact here, fp8 there"; nullopt when equal.
std::optional<std::string> FirstDifference(const Fingerprint& here, const Fingerprint& there);

}  // namespace baleen
