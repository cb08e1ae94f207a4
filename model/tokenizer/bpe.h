#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "model/tokenizer/tokenizer_file.h"

namespace baleen::tokenizer {

// Byte-pair encoding of one piece: from single bytes, the adjacent pair with the lowest rank is
// merged, leftmost on ties, until no pair has a rank (section 6.1 step 5 of the model's
// specification). O(n log n) in the bytes of the piece.
// Threads: const and safe from any, each with its own Scratch.
class Bpe {
 public:
  explicit Bpe(const TokenizerFile& file);

  // Working memory, kept between calls to save allocations.
  class Scratch {
    friend class Bpe;
    struct Symbol {
      int32_t id;
      int32_t prev, next;  // neighbours still alive; -1 at the ends
      int32_t rank;        // of the merge with `next`; kNoRank if there is none
    };
    std::vector<Symbol> symbols;
    std::vector<uint64_t> queue;  // min-heap of rank << 32 | left symbol; may be out of date
  };

  // Appends the ids of `piece`, which is at most 2^31 - 1 bytes.
  void Encode(absl::string_view piece, Scratch* scratch, std::vector<int32_t>* ids) const;

 private:
  static constexpr int32_t kNoRank = -1;

  int32_t RankOf(int32_t left, int32_t right) const;
  void Merge(absl::string_view piece, Scratch* scratch, std::vector<int32_t>* ids) const;
  bool AppendPair(Scratch* scratch, int32_t left) const;
  void PushPair(Scratch* scratch, int32_t left) const;

  std::array<int32_t, 256> byte_ids_;
  absl::flat_hash_map<uint64_t, int32_t> ranks_;  // left id << 32 | right id -> rank
  std::vector<int32_t> merged_;                   // rank -> id
  // Tokens that encode to themselves: one look-up instead of all their merges.
  absl::flat_hash_map<std::string, int32_t> whole_;
};

}  // namespace baleen::tokenizer
