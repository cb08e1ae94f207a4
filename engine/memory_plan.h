#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/backend.h"

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
// which of the two, and the bytes wanted and available. A pipeline's stages share page ids: the
// leader's count must be taken by all of them.
absl::StatusOr<int> PlanPages(const PagePlan& plan);

// What a process puts on its device, in bytes.
struct MemoryBudget {
  kernels::Backend::Memory device;  // with the weights loaded
  double fraction = 0;              // of the device's memory, for all of this process's
  size_t weights = 0;
  size_t forward = 0;  // model::Forward::PlannedBytes
  size_t step = 0;     // DecodeStep::PlannedBytes, PrefillStep::PlannedBytes
};

// What the budget leaves for the page pool: at least kLeastBudget counts as the process's share, so
// that a small machine's fraction does not refuse a small model.
inline constexpr size_t kLeastBudget = size_t{256} << 20;
size_t PoolBytes(const MemoryBudget& budget);

// All of it in words, for logs and errors: "85 bytes, 80 free; weights 40, forward pass …".
std::string Describe(const MemoryBudget& budget);

// The default fraction: several processes of a cluster share a CPU's memory, a GPU is one's own.
double DefaultMemoryFraction(absl::string_view device);

// Pages that a sequence needs from first to last token on decode: prompt, max_new_tokens and
// `drafts` provisional slots, up to max_context. Reserved at admission, so that a running sequence
// never waits for a page.
int DecodePages(int64_t prompt_tokens, int64_t max_new_tokens, int drafts, int max_context);

// Pages that a prompt needs on prefill: its tokens and the provisional rows of drafts 2..k. Only
// the first PagesFor(prompt_tokens) of them hold what decode needs.
int PrefillPages(int64_t prompt_tokens, int drafts, int max_context);

}  // namespace baleen::engine
