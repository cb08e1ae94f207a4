// StoreLatent, StoreIndexKeys (5.2, 5.3).
#include <cstring>

#include "kernels/cpu/cache_rows.h"
#include "kernels/cpu/cpu_backend.h"

namespace baleen::kernels::cpu {

void CpuBackend::StoreLatent(const StoreLatentParams& p) {
  const int lora = p.cache.layout.kv_lora;
  const int rope = p.cache.layout.rope;
  BALEEN_CHECK(p.latent.cols == lora && p.rope.cols == rope && lora % kQuantGroup == 0);
  ForEachRow(p.rows.rows, lora + rope, [&](Scratch& scratch, int64_t r) {
    if (p.rows.sequences[r] == p.rows.empty_sequence) return;
    std::byte* row =
        LatentRow(p.cache, SlotOf(p.cache, p.rows, p.rows.sequences[r], p.rows.positions[r]));
    const float* latent = ReadRow(p.latent, r, scratch.input);
    const float* rotated = ReadRow(p.rope, r, scratch.middle);
    if (p.cache.layout.numerics == Numerics::kExact) {
      std::memcpy(row, latent, lora * sizeof(float));
      std::memcpy(row + lora * sizeof(float), rotated, rope * sizeof(float));
      return;
    }
    const int groups = lora / kQuantGroup;
    auto* q = reinterpret_cast<uint8_t*>(row);
    auto* scales = reinterpret_cast<float*>(row + lora);
    for (int g = 0; g < groups; ++g) {
      scales[g] = simd::QuantizeGroup(latent + g * kQuantGroup, kQuantGroup, q + g * kQuantGroup);
    }
    simd::F32ToBf16(rotated, rope, reinterpret_cast<uint16_t*>(scales + groups));
  });
}

void CpuBackend::StoreIndexKeys(const StoreIndexKeysParams& p) {
  const int dim = p.cache.layout.index_dim;
  BALEEN_CHECK(p.keys.cols == dim);
  ForEachRow(p.rows.rows, dim, [&](Scratch& scratch, int64_t r) {
    if (p.rows.sequences[r] == p.rows.empty_sequence) return;
    const TokenSlot slot = SlotOf(p.cache, p.rows, p.rows.sequences[r], p.rows.positions[r]);
    const float* key = ReadRow(p.keys, r, scratch.input);
    if (p.cache.layout.numerics == Numerics::kExact) {
      std::memcpy(IndexKey(p.cache, slot), key, dim * sizeof(float));
      return;
    }
    *IndexScale(p.cache, slot) =
        simd::QuantizeGroup(key, dim, reinterpret_cast<uint8_t*>(IndexKey(p.cache, slot)));
  });
}

}  // namespace baleen::kernels::cpu
