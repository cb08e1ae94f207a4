#include "engine/prefix_cache.h"

#include <algorithm>

#include "common/check.h"
#include "common/kv_layout.h"
#include "common/status_macros.h"
#include "xxhash.h"

namespace baleen::engine {

// One cached page: the edge that leads to it and where it hangs.
struct PrefixCache::Node {
  Node* parent = nullptr;  // nullptr: the prompt's first page
  std::vector<int32_t> key;
  uint64_t hash = 0;  // of the whole chain of keys
  PageId page;
  int children = 0;
  std::list<Node*>::iterator place;  // in nodes_
};

PrefixCache::PrefixCache(PagePool& pool, bool mtp) : pool_(pool), mtp_(mtp) {}
PrefixCache::~PrefixCache() { Flush(); }

std::span<const int32_t> PrefixCache::KeyAt(std::span<const int32_t> prompt, int page) const {
  return prompt.subspan(size_t(page) * kPageTokens, kPageTokens + (mtp_ ? 1 : 0));
}

// Full pages whose key is known.
int PrefixCache::KeyablePages(std::span<const int32_t> prompt) const {
  const int64_t tokens = static_cast<int64_t>(prompt.size()) - (mtp_ ? 1 : 0);
  return static_cast<int>(std::max<int64_t>(tokens, 0) / kPageTokens);
}

uint64_t PrefixCache::ChainHash(const Node* parent, std::span<const int32_t> key) {
  return XXH3_64bits_withSeed(key.data(), key.size_bytes(), parent == nullptr ? 0 : parent->hash);
}

PrefixCache::Node* PrefixCache::Find(const Node* parent, std::span<const int32_t> key) const {
  const auto bucket = buckets_.find(ChainHash(parent, key));
  if (bucket == buckets_.end()) return nullptr;
  for (const std::unique_ptr<Node>& node : bucket->second) {
    if (node->parent == parent && std::equal(key.begin(), key.end(), node->key.begin())) {
      return node.get();
    }
  }
  return nullptr;
}

std::vector<PageId> PrefixCache::Acquire(std::span<const int32_t> prompt) {
  std::vector<PageId> pages;
  if (prompt.empty()) return pages;
  const int most = std::min<int>(KeyablePages(prompt), int(prompt.size() - 1) / kPageTokens);
  Node* node = nullptr;
  for (int page = 0; page < most; ++page) {
    Node* next = Find(node, KeyAt(prompt, page));
    if (next == nullptr) break;
    node = next;
    pages.push_back(node->page);
  }
  pool_.AddRequest(pages);
  for (; node != nullptr; node = node->parent) Touch(node);
  return pages;
}

void PrefixCache::Insert(std::span<const int32_t> prompt, std::span<const PageId> pages) {
  const int count = std::min<int>(KeyablePages(prompt), static_cast<int>(pages.size()));
  Node* parent = nullptr;
  for (int page = 0; page < count; ++page) {
    const std::span<const int32_t> key = KeyAt(prompt, page);
    Node* node = Find(parent, key);
    if (node == nullptr) node = AddNode(parent, key, pages[page]);
    parent = node;
  }
  for (; parent != nullptr; parent = parent->parent) Touch(parent);
}

PrefixCache::Node* PrefixCache::AddNode(Node* parent, std::span<const int32_t> key, PageId page) {
  BALEEN_CHECK_MSG(pool_.HasRequest(page), "only a page in use has contents to keep");
  auto node = std::make_unique<Node>();
  node->parent = parent;
  node->key.assign(key.begin(), key.end());
  node->hash = ChainHash(parent, key);
  node->page = page;
  node->place = nodes_.insert(nodes_.end(), node.get());
  if (parent != nullptr) ++parent->children;
  pool_.AddCache(page);
  return buckets_[node->hash].emplace_back(std::move(node)).get();
}

// Makes `node` the one used last. Callers touch leaf to root, so a child is evicted before its
// parent.
void PrefixCache::Touch(Node* node) { nodes_.splice(nodes_.end(), nodes_, node->place); }

void PrefixCache::Erase(Node* node) {
  BALEEN_CHECK(node->children == 0);
  if (node->parent != nullptr) --node->parent->children;
  nodes_.erase(node->place);
  pool_.DropCache(node->page);
  const auto bucket = buckets_.find(node->hash);
  std::erase_if(bucket->second, [node](const auto& entry) { return entry.get() == node; });
  if (bucket->second.empty()) buckets_.erase(bucket);
}

absl::StatusOr<std::vector<PageId>> PrefixCache::Allocate(int count) {
  if (count <= available()) Evict(count - pool_.free());
  return pool_.Allocate(count);
}

int PrefixCache::available() const { return pool_.free() + pool_.counts().cached; }

// nodes_ holds a child before its parent, so one pass meets leaves first. The second pass forgets
// pages in use too, where they hang below pages that only the cache holds.
void PrefixCache::Evict(int count) {
  for (const bool spare_used : {true, false}) {
    for (auto it = nodes_.begin(); it != nodes_.end() && count > 0;) {
      Node* node = *it++;
      const bool frees = pool_.OnlyCached(node->page);
      if (node->children > 0 || (spare_used && !frees)) continue;
      Erase(node);
      if (frees) --count;
    }
  }
}

void PrefixCache::Flush() {
  while (!nodes_.empty()) Erase(nodes_.front());
}

}  // namespace baleen::engine
