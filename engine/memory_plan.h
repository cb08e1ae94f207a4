#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"

namespace baleen::engine {

// How many pages a process's pool gets.
struct PagePlan {
  int requested_pages = 0;     // from the configuration; 0: planned
  size_t page_bytes = 0;       // KvLayout::PageBytes of this process
  size_t bytes_available = 0;  // what the pool may use at most
  int max_context = 0;         // tokens
  int useful_sequences = 64;   // a planned pool is not larger than these at max_context need
};

// ResourceExhausted when not even one sequence of max_context (or not requested_pages) fits, naming
// the bytes wanted and available. A pipeline's stages share page ids: the leader's count must be
// taken by all of them.
absl::StatusOr<int> PlanPages(const PagePlan& plan);

// Bytes that a process of a CPU cluster may plan with: a sixteenth of the machine's memory, at
// least 256 MiB. Pages that are never touched cost nothing.
size_t CpuPoolBytes();

// Pages that a sequence needs from first to last token on decode: prompt, max_new_tokens and
// `drafts` provisional slots, up to max_context. Reserved at admission, so that a running sequence
// never waits for a page.
int DecodePages(int64_t prompt_tokens, int64_t max_new_tokens, int drafts, int max_context);

// Pages that a prompt needs on prefill: its tokens and the provisional rows of drafts 2..k. Only
// the first PagesFor(prompt_tokens) of them hold what decode needs.
int PrefillPages(int64_t prompt_tokens, int drafts, int max_context);

}  // namespace baleen::engine
