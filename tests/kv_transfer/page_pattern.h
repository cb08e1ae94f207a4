#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace baleen::kv_transfer::testing {

// Bytes that say which page they belong to.
inline void FillPage(std::span<std::byte> bytes, int page) {
  uint32_t x = uint32_t(page) * 2654435761u + 12345;
  for (std::byte& b : bytes) {
    x = x * 1664525 + 1013904223;
    b = std::byte(x >> 24);
  }
}

inline bool IsPage(std::span<const std::byte> bytes, int page) {
  std::vector<std::byte> want(bytes.size());
  FillPage(want, page);
  return std::memcmp(want.data(), bytes.data(), bytes.size()) == 0;
}

}  // namespace baleen::kv_transfer::testing
