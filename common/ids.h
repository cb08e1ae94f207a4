#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace baleen {

// A number that cannot be swapped for another kind of number.
template <typename Tag, typename T>
struct StrongId {
  T value = 0;
  auto operator<=>(const StrongId&) const = default;
};

using PageId = StrongId<struct PageIdTag, int32_t>;  // index into one process's page pool
using AttemptId =
    StrongId<struct AttemptIdTag, uint64_t>;  // one try at a request; random, made by the router
using GrantId = StrongId<struct GrantIdTag, uint64_t>;  // decode pages lent to writers; random
using Incarnation =
    StrongId<struct IncarnationTag, uint64_t>;  // one life of a process or group; random, never 0

// 64 random bits from the operating system, never 0.
uint64_t RandomId();

}  // namespace baleen

template <typename Tag, typename T>
struct std::hash<baleen::StrongId<Tag, T>> {
  size_t operator()(const baleen::StrongId<Tag, T>& id) const { return std::hash<T>()(id.value); }
};
