#pragma once

#include <cstring>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"
#include "kernels/tensor.h"

// Where a token's cached values lie (common/kv_layout.h) and what they are as f32.
namespace baleen::kernels::cpu {

struct TokenSlot {
  std::byte* layer;  // this layer's part of the token's page
  int offset;        // token inside the page
};

inline TokenSlot SlotOf(const LayerCache& cache, const RowMap& rows, int32_t sequence,
                        int64_t position) {
  const int64_t page = position / kPageTokens;
  return {cache.layer(rows.page_table[int64_t{sequence} * rows.page_table_stride + page]),
          static_cast<int>(position % kPageTokens)};
}

inline std::byte* LatentRow(const LayerCache& cache, TokenSlot slot) {
  return slot.layer + size_t(slot.offset) * cache.layout.LatentRowBytes();
}
inline std::byte* IndexKey(const LayerCache& cache, TokenSlot slot) {
  return slot.layer + cache.layout.IndexKeysOffset() +
         size_t(slot.offset) * cache.layout.IndexKeyBytes();
}
// kFp8 only.
inline float* IndexScale(const LayerCache& cache, TokenSlot slot) {
  return reinterpret_cast<float*>(slot.layer + cache.layout.IndexScalesOffset()) + slot.offset;
}

// [latent | rope] of a token as f32: in place in kExact, else decoded into `buffer`.
inline const float* ReadLatent(const LayerCache& cache, TokenSlot slot, float* buffer) {
  const std::byte* row = LatentRow(cache, slot);
  if (cache.layout.numerics == Numerics::kExact) return reinterpret_cast<const float*>(row);
  const int lora = cache.layout.kv_lora;
  const auto* scales = reinterpret_cast<const float*>(row + lora);
  for (int g = 0; g < lora / kQuantGroup; ++g) {
    simd::DecodeE4m3(reinterpret_cast<const uint8_t*>(row) + g * kQuantGroup, kQuantGroup,
                     scales[g], buffer + g * kQuantGroup);
  }
  simd::Bf16ToF32(reinterpret_cast<const uint16_t*>(scales + lora / kQuantGroup), cache.layout.rope,
                  buffer + lora);
  return buffer;
}

}  // namespace baleen::kernels::cpu
