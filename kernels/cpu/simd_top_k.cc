#include <bit>

#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/simd_top_k.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h:
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace baleen::kernels::simd::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using U32 = hn::Repartition<uint32_t, F32>;
using I32 = hn::Repartition<int32_t, F32>;

// Orders floats as unsigned integers; the two zeros are equal and NaN is below everything.
HWY_INLINE hn::Vec<U32> OrderKeys(hn::Vec<F32> v) {
  const U32 d;
  const auto bits = hn::BitCast(d, hn::Add(v, hn::Zero(F32())));  // -0 becomes +0
  const auto negative = hn::BitCast(d, hn::ShiftRight<31>(hn::BitCast(I32(), bits)));
  const auto key = hn::Xor(bits, hn::Or(negative, hn::Set(d, 0x80000000u)));
  return hn::IfThenElseZero(hn::RebindMask(d, hn::Eq(v, v)), key);
}

void WriteKeys(const float* x, int n, uint32_t* keys) {
  const F32 d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  int i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(OrderKeys(hn::LoadU(d, x + i)), U32(), keys + i);
  for (; i < n; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(x[i] + 0.0f);
    const uint32_t key = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
    keys[i] = x[i] == x[i] ? key : 0;
  }
}

// Keeps the candidates whose `bit` is as wanted, in place; returns how many. Lanes beyond the kept
// ones are overwritten, which only touches what has been read.
HWY_INLINE int Keep(uint32_t* candidates, int n, uint32_t bit, bool set) {
  const U32 d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const auto mask = hn::Set(d, bit);
  const auto wanted = hn::Set(d, set ? bit : 0);
  int kept = 0;
  int i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto v = hn::LoadU(d, candidates + i);
    const auto mine = hn::Eq(hn::And(v, mask), wanted);
    // Not CompressStore: its one-instruction form is many times slower on AMD's cores.
    hn::StoreU(hn::Compress(v, mine), d, candidates + kept);
    kept += static_cast<int>(hn::CountTrue(d, mine));
  }
  for (; i < n; ++i) {
    if (((candidates[i] & bit) != 0) == set) candidates[kept++] = candidates[i];
  }
  return kept;
}

HWY_INLINE int CountSet(const uint32_t* candidates, int n, uint32_t bit) {
  const U32 d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const auto mask = hn::Set(d, bit);
  int count = 0;
  int i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto v = hn::LoadU(d, candidates + i);
    count += static_cast<int>(hn::CountTrue(d, hn::Eq(hn::And(v, mask), mask)));
  }
  for (; i < n; ++i) count += (candidates[i] & bit) != 0;
  return count;
}

// The k-th largest of n keys, bit by bit from the top; only keys that share the bits found so far
// remain. `candidates` is a copy that is used up.
uint32_t KthLargest(uint32_t* candidates, int n, int k) {
  uint32_t found = 0;
  for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
    const int ones = CountSet(candidates, n, bit);
    const bool set = ones >= k;
    if (set) {
      found |= bit;
    } else {
      k -= ones;
    }
    if (ones != 0 && ones != n) n = Keep(candidates, n, bit, set);
    if (n == 1) return candidates[0];
  }
  return found;
}

void Select(const float* x, int n, int k, uint32_t* keys, int32_t* out) {
  uint32_t* candidates = keys + n;
  WriteKeys(x, n, keys);
  WriteKeys(x, n, candidates);
  const uint32_t threshold = KthLargest(candidates, n, k);
  const U32 d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const auto limit = hn::Set(d, threshold);
  int larger = 0;
  int i = 0;
  // Compared as signed: this Highway has no unsigned order.
  const auto flip = hn::Set(d, 0x80000000u);
  const auto above = [&](hn::Vec<U32> v) HWY_ATTR {
    return hn::Gt(hn::BitCast(I32(), hn::Xor(v, flip)), hn::BitCast(I32(), hn::Xor(limit, flip)));
  };
  for (; i + lanes <= n; i += lanes) {
    larger += static_cast<int>(hn::CountTrue(I32(), above(hn::LoadU(d, keys + i))));
  }
  for (; i < n; ++i) larger += keys[i] > threshold;
  int equal = k - larger;  // of the ones equal to the threshold the first ones are taken
  int taken = 0;
  for (i = 0; taken < k; ++i) {
    out[taken] = i;
    const bool tie = (keys[i] == threshold) & (equal > 0);
    equal -= tie;
    taken += tie | (keys[i] > threshold);
  }
}

}  // namespace baleen::kernels::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baleen::kernels::simd {

HWY_EXPORT(Select);

void SelectLargest(const float* x, int n, int k, uint32_t* scratch, int32_t* out) {
  HWY_DYNAMIC_DISPATCH(Select)(x, n, k, scratch, out);
}

}  // namespace baleen::kernels::simd
#endif  // HWY_ONCE
