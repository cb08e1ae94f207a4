#include "engine/page_pool.h"

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace baleen::engine {

PagePool::PagePool(int pages) : pages_(pages) {
  BALEEN_CHECK(pages >= 0);
  counts_.total = counts_.free = pages;
  for (int page = pages - 1; page >= 0; --page) free_.push_back(PageId{page});
}

absl::StatusOr<std::vector<PageId>> PagePool::Allocate(int count) {
  BALEEN_CHECK(count >= 0);
  if (count > counts_.free) {
    return absl::ResourceExhaustedError(
        absl::StrCat(count, " pages wanted, ", counts_.free, " of ", counts_.total, " free"));
  }
  std::vector<PageId> taken(free_.rbegin(), free_.rbegin() + count);
  free_.resize(free_.size() - count);
  for (PageId page : taken) at(page).request = 1;
  counts_.free -= count;
  counts_.request += count;
  return taken;
}

void PagePool::AddRequest(std::span<const PageId> pages) {
  for (PageId page : pages) Add(page, Kind::kRequest);
}
void PagePool::DropRequest(std::span<const PageId> pages) {
  for (PageId page : pages) Drop(page, Kind::kRequest);
}
void PagePool::AddWriter(std::span<const PageId> pages) {
  for (PageId page : pages) Add(page, Kind::kWriter);
}
void PagePool::DropWriter(std::span<const PageId> pages) {
  for (PageId page : pages) Drop(page, Kind::kWriter);
}
void PagePool::AddCache(PageId page) { Add(page, Kind::kCache); }
void PagePool::DropCache(PageId page) { Drop(page, Kind::kCache); }

bool PagePool::HasRequest(PageId page) const { return at(page).request > 0; }
bool PagePool::OnlyCached(PageId page) const {
  const Page& p = at(page);
  return p.request == 0 && p.writer == 0 && p.cache > 0;
}

void PagePool::Add(PageId id, Kind kind) {
  Page& page = at(id);
  BALEEN_CHECK_MSG(!page.free(), "reference to a free page");
  --CountOf(page);
  ++page.references(kind);
  ++CountOf(page);
}

void PagePool::Drop(PageId id, Kind kind) {
  Page& page = at(id);
  BALEEN_CHECK_MSG(page.references(kind) > 0, "page returned twice");
  --CountOf(page);
  --page.references(kind);
  ++CountOf(page);
  if (page.free()) free_.push_back(id);
}

PagePool::Page& PagePool::at(PageId id) {
  BALEEN_CHECK_MSG(id.value >= 0 && id.value < counts_.total, "no such page");
  return pages_[id.value];
}
const PagePool::Page& PagePool::at(PageId id) const { return const_cast<PagePool*>(this)->at(id); }

int& PagePool::CountOf(const Page& page) {
  if (page.request > 0) return counts_.request;
  if (page.cache > 0) return counts_.cached;
  if (page.writer > 0) return counts_.quarantined;
  return counts_.free;
}

}  // namespace baleen::engine
