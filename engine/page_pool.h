#pragma once

#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/ids.h"

namespace baleen::engine {

// Who holds which page of one process's pool. Plain ids: the memory is owned elsewhere
// (memory_plan.h sizes it).
//
// A page has three kinds of references, each counted:
//   request  a sequence (or a hand-over still to be sent) uses its contents
//   writer   a peer may still write into it; ends by DrainAck or a valid fence, never by a timer
//   cache    the prefix cache keeps its contents
// It is free when it has none. Nothing else makes it reusable (R1 of kv_transfer/README.md).
//
// Threads: not thread-safe. One thread has it (prefill's step thread, in Leader) or one lock guards
// it (decode's RequestTable, whose gRPC, transport and step threads all use it).
class PagePool {
 public:
  explicit PagePool(int pages);

  // `count` pages with one request reference each, or ResourceExhausted and nothing taken. The
  // contents are whatever the last user left.
  absl::StatusOr<std::vector<PageId>> Allocate(int count);

  // Dropping a reference that is not held, or referencing a free page, is a BALEEN_CHECK.
  void AddRequest(std::span<const PageId> pages);
  void DropRequest(std::span<const PageId> pages);
  void AddWriter(std::span<const PageId> pages);
  void DropWriter(std::span<const PageId> pages);
  void AddCache(PageId page);
  void DropCache(PageId page);

  // Every page is in exactly one state.
  struct Counts {
    int total = 0;
    int free = 0;
    int request = 0;      // a request reference, whatever else
    int quarantined = 0;  // no request or cache reference, but a writer's
    int cached = 0;       // no request reference, kept by the prefix cache
  };
  Counts counts() const { return counts_; }
  int free() const { return counts_.free; }
  int total() const { return counts_.total; }
  bool HasRequest(PageId page) const;
  bool OnlyCached(PageId page) const;  // dropping the cache's reference frees it

 private:
  enum class Kind : uint8_t { kRequest, kWriter, kCache };
  struct Page {
    int request = 0;
    int writer = 0;
    int cache = 0;

    bool free() const { return request == 0 && writer == 0 && cache == 0; }
    int& references(Kind kind) {
      return kind == Kind::kRequest ? request : kind == Kind::kWriter ? writer : cache;
    }
  };
  void Add(PageId page, Kind kind);
  void Drop(PageId page, Kind kind);
  Page& at(PageId page);
  const Page& at(PageId page) const;
  int& CountOf(const Page& page);

  std::vector<Page> pages_;
  std::vector<PageId> free_;  // a stack: the page returned last is the warmest
  Counts counts_;
};

}  // namespace baleen::engine
