#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace baleen::prefill_worker {

// Which rows of which sequences form the next batch. Pure: no clock, no I/O, no locks.
struct ChunkLimits {
  int rows = 8192;  // of a batch, at context 0
  int sequences = 64;
};

// A sequence that may be computed, in order of arrival.
struct ChunkCandidate {
  int64_t computed = 0;  // tokens with caches, a multiple of the page unless nothing is left
  int64_t total = 0;     // of the prompt
};

struct Chunk {
  int candidate = 0;  // index into the candidates
  int64_t first = 0;  // position
  int rows = 0;
};

// Rows that cost as much as `rows` at context 0 do when the context is `context` tokens long: the
// indexer's work grows with it, and pipeline stages stay balanced only if batches take equally
// long. At kDoubleContext tokens a row costs twice what it costs at 0 (logits and top-k against
// everything else: docs/performance.md's table for 128K chunks).
inline constexpr int64_t kDoubleContext = 98304;
int RowsAtContext(int rows, int64_t context);

// Chunks end on page edges or at the end of the prompt, so that every page of a chunk is complete.
// The oldest sequence gets three quarters of the budget while others wait, the rest goes to those
// with the least left: a short prompt behind a long one is not held up by it. Never empty when
// there is a candidate with rows left.
std::vector<Chunk> PlanBatch(std::span<const ChunkCandidate> candidates, const ChunkLimits& limits);

}  // namespace baleen::prefill_worker
