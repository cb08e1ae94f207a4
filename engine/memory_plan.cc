#include "engine/memory_plan.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/kv_layout.h"

namespace baleen::engine {
namespace {

// Slots a sequence may use at most: rows past max_context are never run.
int PagesUpTo(int64_t tokens, int max_context) {
  return static_cast<int>(PagesFor(std::min<int64_t>(tokens, max_context)));
}

}  // namespace

int DecodePages(int64_t prompt_tokens, int64_t max_new_tokens, int drafts, int max_context) {
  return PagesUpTo(prompt_tokens + max_new_tokens + drafts, max_context);
}

int PrefillPages(int64_t prompt_tokens, int drafts, int max_context) {
  return PagesUpTo(prompt_tokens + std::max(drafts - 1, 0), max_context);
}

absl::StatusOr<int> PlanPages(const PagePlan& plan) {
  const int64_t one = PagesFor(plan.max_context);
  const int64_t fitting =
      plan.page_bytes == 0 ? 0 : static_cast<int64_t>(plan.bytes_available / plan.page_bytes);
  const int64_t wanted = plan.requested_pages > 0 ? plan.requested_pages : one;
  if (wanted > fitting) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "page pool: ", wanted, " pages",
        plan.requested_pages > 0
            ? ", as configured,"
            : absl::StrCat(", for one sequence of max_context ", plan.max_context, ","),
        " need ", wanted * plan.page_bytes, " bytes, ", plan.bytes_available, " are available"));
  }
  if (plan.requested_pages > 0) return plan.requested_pages;
  const int64_t useful = one * plan.useful_sequences;
  return static_cast<int>(
      std::min({fitting, useful, int64_t{std::numeric_limits<int32_t>::max()}}));
}

size_t PoolBytes(const MemoryBudget& b) {
  const auto share =
      std::max(static_cast<size_t>(b.fraction * double(b.device.total)), kLeastBudget);
  const size_t steps = b.forward + b.step;
  const size_t taken = b.weights + steps;
  const size_t of_share = share > taken ? share - taken : 0;
  const size_t of_free = b.device.free > steps ? b.device.free - steps : 0;
  return std::min(of_share, of_free);
}

std::string Describe(const MemoryBudget& b) {
  return absl::StrCat(b.device.total, " bytes, ", b.device.free, " free; weights ", b.weights,
                      ", forward pass ", b.forward, ", steps ", b.step, ", memory_fraction ",
                      b.fraction);
}

double DefaultMemoryFraction(absl::string_view device) { return device == "cpu" ? 1.0 / 16 : 0.9; }

}  // namespace baleen::engine
