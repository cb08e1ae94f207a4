#include "model/tokenizer/bpe.h"

#include <algorithm>
#include <functional>

#include "absl/container/flat_hash_set.h"

namespace baleen::tokenizer {
namespace {

uint64_t PairKey(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

}  // namespace

Bpe::Bpe(const TokenizerFile& file) : byte_ids_(file.byte_ids) {
  ranks_.reserve(file.merges.size());
  merged_.reserve(file.merges.size());
  for (const tokenizer::Merge& merge : file.merges) {
    // A pair listed twice keeps its last rank, as in the reference library.
    ranks_[PairKey(merge.left, merge.right)] = static_cast<int32_t>(merged_.size());
    merged_.push_back(merge.merged);
  }
  whole_.reserve(file.vocab.size());
  Scratch scratch;
  std::vector<int32_t> ids;
  absl::flat_hash_set<int32_t> added;
  for (const AddedToken& token : file.added_tokens) added.insert(token.id);
  for (const VocabToken& token : file.vocab) {
    if (!token.spells_bytes || token.bytes.empty() || added.contains(token.id)) continue;
    ids.clear();
    if (!file.ignore_merges) Merge(token.bytes, &scratch, &ids);
    const bool is_whole = file.ignore_merges || (ids.size() == 1 && ids[0] == token.id);
    if (is_whole) whole_.emplace(token.bytes, token.id);
  }
}

int32_t Bpe::RankOf(int32_t left, int32_t right) const {
  const auto it = ranks_.find(PairKey(left, right));
  return it == ranks_.end() ? kNoRank : it->second;
}

void Bpe::Encode(absl::string_view piece, Scratch* scratch, std::vector<int32_t>* ids) const {
  if (const auto it = whole_.find(piece); it != whole_.end()) {
    ids->push_back(it->second);
  } else {
    Merge(piece, scratch, ids);
  }
}

// Looks up the merge of `left` with its right neighbour and appends it to the queue, which then
// may be no heap. Returns whether there was one.
bool Bpe::AppendPair(Scratch* scratch, int32_t left) const {
  Scratch::Symbol& symbol = scratch->symbols[left];
  symbol.rank = symbol.next < 0 ? kNoRank : RankOf(symbol.id, scratch->symbols[symbol.next].id);
  if (symbol.rank == kNoRank) return false;
  scratch->queue.push_back(uint64_t{static_cast<uint32_t>(symbol.rank)} << 32 |
                           static_cast<uint32_t>(left));
  return true;
}

void Bpe::PushPair(Scratch* scratch, int32_t left) const {
  if (left < 0 || !AppendPair(scratch, left)) return;
  std::push_heap(scratch->queue.begin(), scratch->queue.end(), std::greater<>());
}

void Bpe::Merge(absl::string_view piece, Scratch* scratch, std::vector<int32_t>* ids) const {
  std::vector<Scratch::Symbol>& symbols = scratch->symbols;
  std::vector<uint64_t>& queue = scratch->queue;
  const auto size = static_cast<int32_t>(piece.size());
  symbols.resize(piece.size());
  queue.clear();
  for (int32_t i = 0; i < size; ++i) {
    symbols[i] = {.id = byte_ids_[static_cast<uint8_t>(piece[i])],
                  .prev = i - 1,
                  .next = i + 1 < size ? i + 1 : -1,
                  .rank = kNoRank};
  }
  for (int32_t i = 0; i < size; ++i) AppendPair(scratch, i);
  std::make_heap(queue.begin(), queue.end(), std::greater<>());
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), std::greater<>());
    const auto rank = static_cast<int32_t>(queue.back() >> 32);
    const auto left = static_cast<int32_t>(queue.back() & 0xFFFFFFFF);
    queue.pop_back();
    // A neighbour may have been merged since; a symbol's rank is always up to date.
    if (symbols[left].rank != rank) continue;
    Scratch::Symbol& right = symbols[symbols[left].next];
    symbols[left].id = merged_[rank];
    symbols[left].next = right.next;
    if (right.next >= 0) symbols[right.next].prev = left;
    right.rank = kNoRank;
    PushPair(scratch, left);
    PushPair(scratch, symbols[left].prev);
  }
  for (int32_t i = 0; i >= 0 && i < size; i = symbols[i].next) ids->push_back(symbols[i].id);
}

}  // namespace baleen::tokenizer
