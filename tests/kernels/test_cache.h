#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/testing.h"

namespace baleen::kernels::testing {

// A page pool of several layers whose pages are handed out in random order, full of NaN, and the
// rows of a step over it. `lengths[i]` tokens of sequence i can be cached.
class TestCache {
 public:
  TestCache(Numerics numerics, const std::vector<int>& lengths, int layer = 1, int kv_lora = 512,
            int rope = 64, int index_dim = 128) {
    const KvLayout layout{numerics, 3, kv_lora, rope, index_dim};
    int64_t pages = 0;
    for (int length : lengths) stride_ = std::max<int>(stride_, int(PagesFor(length)));
    for (int length : lengths) pages += PagesFor(length);
    pool_.assign(size_t(pages) * layout.PageBytes(), std::byte{0xFF});
    std::vector<int32_t> ids(pages);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(17));
    table_.assign(lengths.size() * stride_, -1);
    size_t next = 0;
    for (size_t s = 0; s < lengths.size(); ++s) {
      for (int64_t p = 0; p < PagesFor(lengths[s]); ++p) table_[s * stride_ + p] = ids[next++];
    }
    cache_ = {pool_.data(), layout.PageBytes(), layer * layout.LayerBytes(), layout};
  }
  TestCache(const TestCache&) = delete;

  // The rows of the next op: (sequence, position) pairs.
  void SetRows(const std::vector<std::pair<int, int>>& rows) {
    sequences_.clear();
    positions_.clear();
    for (const auto& [sequence, position] : rows) {
      sequences_.push_back(sequence);
      positions_.push_back(position);
    }
  }
  // Positions [begin, end) of one sequence.
  void SetRows(int sequence, int begin, int end) {
    std::vector<std::pair<int, int>> rows;
    for (int p = begin; p < end; ++p) rows.emplace_back(sequence, p);
    SetRows(rows);
  }

  const LayerCache& cache() const { return cache_; }
  RowMap rows() const {
    return {int(positions_.size()), positions_.data(), sequences_.data(), table_.data(), stride_};
  }
  const std::vector<std::byte>& bytes() const { return pool_; }
  const int32_t* positions() const { return positions_.data(); }

  std::byte* Page(int sequence, int position) const {
    return cache_.layer(table_[size_t(sequence) * stride_ + position / kPageTokens]);
  }

  // Stores random latents, roped keys and index keys for all positions of the sequence.
  void Fill(Backend& backend, int sequence, int length, uint32_t seed) {
    const KvLayout& layout = cache_.layout;
    const DType dtype = ActivationDType(layout.numerics);
    SetRows(sequence, 0, length);
    backend.StoreLatent({TestMatrix::Random(length, layout.kv_lora, seed, dtype).view(),
                         TestMatrix::Random(length, layout.rope, seed + 1, dtype).view(), cache_,
                         rows()});
    backend.StoreIndexKeys(
        {TestMatrix::Random(length, layout.index_dim, seed + 2, dtype).view(), cache_, rows()});
  }

  // Element d of [latent | rope] of a token, by the layout's definition.
  double Latent(int sequence, int position, int d) const {
    const KvLayout& layout = cache_.layout;
    const std::byte* row =
        Page(sequence, position) + (position % kPageTokens) * layout.LatentRowBytes();
    if (layout.numerics == Numerics::kExact) return Load<float>(row + d * 4);
    if (d >= layout.kv_lora) {
      return Bf16ToF32(
          Load<uint16_t>(row + layout.kv_lora + layout.kv_lora / 32 + (d - layout.kv_lora) * 2));
    }
    return double{E4m3ToF32(Load<uint8_t>(row + d))} *
           Load<float>(row + layout.kv_lora + d / 128 * 4);
  }

  // Element d of a token's index key, with its scale.
  double Key(int sequence, int position, int d) const {
    const KvLayout& layout = cache_.layout;
    const std::byte* page = Page(sequence, position);
    const size_t offset = position % kPageTokens;
    const std::byte* key = page + layout.IndexKeysOffset() + offset * layout.IndexKeyBytes();
    if (layout.numerics == Numerics::kExact) return Load<float>(key + d * 4);
    return double{E4m3ToF32(Load<uint8_t>(key + d))} *
           Load<float>(page + layout.IndexScalesOffset() + offset * 4);
  }

  template <typename T>
  static T Load(const std::byte* p) {
    T v;
    std::memcpy(&v, p, sizeof(T));
    return v;
  }

 private:
  std::vector<std::byte> pool_;
  std::vector<int32_t> table_;
  int stride_ = 0;
  std::vector<int32_t> sequences_;
  std::vector<int32_t> positions_;
  LayerCache cache_;
};

}  // namespace baleen::kernels::testing
