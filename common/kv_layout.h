#pragma once

#include <cstddef>
#include <cstdint>

#include "common/dtype.h"

namespace baleen {

// Byte layout of the paged KV cache of one process: the only contract between a prefill worker, a
// decode worker and kv_transfer. Changing a formula here changes the wire: bump kKvLayoutVersion.
//
// One allocation, page-major:
//   [pages][layers][LayerBytes], where LayerBytes holds, one after the other,
//     kPageTokens latent rows | kPageTokens index keys | kPageTokens index scales
//
// A page holds kPageTokens consecutive tokens of ONE sequence for all layers of the process, so a
// pipeline stage's share of a page is one contiguous piece at both ends of the wire.
//
//   latent row   kFp8: [0,512) e4m3 latent | [512,528) f32 scale per 128 | [528,656) bf16 roped key
//                kExact: kv_lora f32 latent | rope f32 roped key
//   index key    kFp8: index_dim e4m3; kExact: index_dim f32
//   index scale  kFp8: one f32; kExact: none
//
// An MTP module is the last layer.
inline constexpr uint32_t kKvLayoutVersion = 1;
inline constexpr int kPageTokens = 64;

constexpr int64_t PagesFor(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

struct KvLayout {
  Numerics numerics = Numerics::kExact;
  int layers = 0;     // cached layers of this process, MTP included
  int kv_lora = 512;  // multiple of 128
  int rope = 64;
  int index_dim = 128;  // 0: the model has no indexer

  constexpr size_t LatentRowBytes() const {
    if (numerics == Numerics::kExact) return size_t(kv_lora + rope) * 4;
    return size_t(kv_lora) + size_t(kv_lora / 128) * 4 + size_t(rope) * 2;
  }
  constexpr size_t IndexKeyBytes() const {
    return size_t(index_dim) * (numerics == Numerics::kExact ? 4 : 1);
  }
  constexpr size_t IndexScaleBytes() const {
    return numerics == Numerics::kFp8 && index_dim > 0 ? 4 : 0;
  }
  // Offsets inside one layer's part of a page.
  constexpr size_t IndexKeysOffset() const { return LatentRowBytes() * kPageTokens; }
  constexpr size_t IndexScalesOffset() const {
    return IndexKeysOffset() + IndexKeyBytes() * kPageTokens;
  }
  constexpr size_t LayerBytes() const {
    return IndexScalesOffset() + IndexScaleBytes() * kPageTokens;
  }
  constexpr size_t PageBytes() const { return LayerBytes() * size_t(layers); }

  bool operator==(const KvLayout&) const = default;
};

// DeepSeek-V3.2 as deployed: 656 B latent row, 132 B of index key and scale a token.
static_assert(KvLayout{.numerics = Numerics::kFp8, .layers = 62}.LatentRowBytes() == 656);
static_assert(KvLayout{.numerics = Numerics::kFp8, .layers = 62}.LayerBytes() == 50432);
static_assert(KvLayout{.numerics = Numerics::kFp8, .layers = 62}.PageBytes() == 3126784);

}  // namespace baleen
