#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "common/ids.h"
#include "engine/page_pool.h"

namespace baleen::engine {

// Full pages of prompts that were prefilled, found again by their tokens: a radix tree with one
// page (64 tokens) an edge. Edges are found by a hash chain and compared token by token.
//
// With `mtp` an edge's key also has the token after the page, because the MTP cache at slot p
// depends on token p + 1 (section 3.8 of docs/model.md): a page is found only where its MTP rows
// are right too. A prompt that leaves a cached one inside or just after a page thus recomputes that
// page, which is what dropping the last matched page does, without the stale row that a page shared
// by two continuations would keep.
//
// Threads: one owner (the step thread), the same as the pool's.
class PrefixCache {
 public:
  PrefixCache(PagePool& pool, bool mtp);
  ~PrefixCache();  // as Flush

  // The longest cached prefix of `prompt`, never all of it: at least one token is left to compute.
  // Adds a request reference to every page; the caller drops them. tokens = 64 * pages.size().
  std::vector<PageId> Acquire(std::span<const int32_t> prompt);

  // Keeps the full pages of a prompt whose prefill is complete on all stages; of a failed or
  // aborted one nothing may come here (docs/failure_cases.md, T-G8). pages[i] holds tokens
  // [64 i, 64 i + 64) and has a request reference. Pages whose tokens are already cached stay the
  // caller's alone.
  void Insert(std::span<const int32_t> prompt, std::span<const PageId> pages);

  // As PagePool::Allocate; makes room by evicting what was used longest ago and has no other
  // reference.
  absl::StatusOr<std::vector<PageId>> Allocate(int count);

  // Pages that Allocate could hand out now.
  int available() const;

  // Forgets everything; pages in use stay with their requests.
  void Flush();

  int size() const { return static_cast<int>(nodes_.size()); }  // pages

 private:
  struct Node;
  static uint64_t ChainHash(const Node* parent, std::span<const int32_t> key);
  Node* Find(const Node* parent, std::span<const int32_t> key) const;
  std::span<const int32_t> KeyAt(std::span<const int32_t> prompt, int page) const;
  int KeyablePages(std::span<const int32_t> prompt) const;
  Node* AddNode(Node* parent, std::span<const int32_t> key, PageId page);
  void Touch(Node* node);
  void Erase(Node* node);
  void Evict(int count);

  PagePool& pool_;
  const bool mtp_;
  absl::flat_hash_map<uint64_t, std::vector<std::unique_ptr<Node>>> buckets_;
  std::list<Node*> nodes_;  // least recently used first; a child before its parent
};

}  // namespace baleen::engine
