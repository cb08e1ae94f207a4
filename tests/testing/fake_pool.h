#pragma once

#include <cstddef>
#include <vector>

#include "tests/testing/fake_forward.h"

namespace baleen::testing {

// Memory of a page pool and a FakeForward over it. The bytes start as garbage, as a pool's do.
struct FakeHost {
  explicit FakeHost(const model::Shard& shard, int pages, model::ExpertExchange* exchange = nullptr)
      : layout(FakeForward::Layout(shard)),
        memory(size_t(pages) * layout.PageBytes(), std::byte{0xA5}),
        forward(shard, memory.data(), exchange) {}

  KvLayout layout;
  std::vector<std::byte> memory;  // [pages][layout.PageBytes()]
  FakeForward forward;
};

}  // namespace baleen::testing
