// StoreLatent, StoreIndexKeys (5.2, 5.3): quantise rows into the pages of the cache.
#include "common/kv_layout.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/packs.cuh"

namespace baleen::kernels::cuda {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kStoreThreads = 128;
constexpr int kStoreBlocks =
    8;  // an SM: leaves registers enough to look up the page beside the row
constexpr int kStoreWarps = kStoreThreads / kWarpThreads;
constexpr int kLatents = 512;
constexpr int kLatentShare = kLatents / kWarpThreads;  // of a lane
constexpr int kGroupLanes = kQuantGroup / kLatentShare;

// Where the token of a row lies.
struct TokenSlot {
  int32_t page;
  int offset;  // of the token inside the page
};

__device__ TokenSlot SlotOf(const RowMap& rows, int r) {
  const unsigned position = rows.positions[r];
  const int64_t table = int64_t{rows.sequences[r]} * rows.page_table_stride;
  return {rows.page_table[table + position / kPageTokens], int(position % kPageTokens)};
}

// One of the arrays of this layer's part of each page, with so many bytes a token.
struct PageArray {
  std::byte* first;  // in page 0
  size_t page_bytes;
  int token_bytes;

  __device__ std::byte* At(TokenSlot slot) const {
    return first + static_cast<size_t>(slot.page) * page_bytes + slot.offset * token_bytes;
  }
};

PageArray ArrayOf(const LayerCache& cache, size_t offset, size_t token_bytes) {
  return {cache.pool + cache.layer_offset + offset, cache.page_bytes, int(token_bytes)};
}

// A warp for each row, sixteen latents a lane. A latent row is
// [512 latents e4m3 | 4 scales f32 | roped key bf16].
template <int kAccess>
__global__ __launch_bounds__(kStoreThreads, kStoreBlocks) void StoreLatentKernel(
    Rows<const Bf16> latent, Rows<const Bf16> rope, int rope_packs, PageArray cache, RowMap rows) {
  const int r = blockIdx.x * kStoreWarps + threadIdx.x / kWarpThreads;
  if (r >= rows.rows || rows.sequences[r] == rows.empty_sequence) return;  // the whole warp
  const int lane = threadIdx.x % kWarpThreads;
  const auto latent_pack = LoadPack<kAccess, kLatentShare>(latent.At(r, lane * kLatentShare));
  const auto rope_pack = LoadPack<kAccess>(rope.At(r, min(lane, rope_packs - 1) * kPack));
  std::byte* row = cache.At(SlotOf(rows, r));

  float v[kLatentShare];
  Unpack(latent_pack, v);
  const float scale = GroupScale(v);
  uint32_t q[kLatentShare / 4];
  QuantizeShare(v, scale, q);
  *reinterpret_cast<uint4*>(row + lane * kLatentShare) = {q[0], q[1], q[2], q[3]};
  auto* scales = reinterpret_cast<float*>(row + kLatents);
  if (lane % kGroupLanes == 0) scales[lane / kGroupLanes] = scale;
  auto* key = reinterpret_cast<uint4*>(scales + kLatents / kQuantGroup);
  const uint32_t(&words)[kPack / 2] = rope_pack.words;
  if (lane < rope_packs) key[lane] = {words[0], words[1], words[2], words[3]};
}

// Sixteen lanes for each key. Threads beyond the last repeat it, since whole warps shuffle.
template <int kAccess>
__global__ __launch_bounds__(kStoreThreads, kStoreBlocks) void StoreIndexKeysKernel(
    Rows<const Bf16> keys, PageArray cache, PageArray scales, RowMap rows) {
  const int thread = blockIdx.x * kStoreThreads + threadIdx.x;
  const int r = min(thread / kGroupPacks, rows.rows - 1);
  const int column = thread % kGroupPacks * kPack;
  const auto pack = LoadPack<kAccess>(keys.At(r, column));
  const TokenSlot slot = SlotOf(rows, r);
  float v[kPack];
  Unpack(pack, v);
  const float scale = GroupScale(v);
  if (thread / kGroupPacks >= rows.rows || rows.sequences[r] == rows.empty_sequence) return;
  uint32_t q[kPack / 4];
  QuantizeShare(v, scale, q);
  *reinterpret_cast<uint2*>(cache.At(slot) + column) = {q[0], q[1]};
  if (column == 0) *reinterpret_cast<float*>(scales.At(slot)) = scale;
}

void CheckCache(const LayerCache& cache) {
  BALEEN_CHECK_MSG(cache.layout.numerics == Numerics::kFp8, "the GPU computes in fp8");
  BALEEN_CHECK((AddressBits(cache.pool) | cache.page_bytes | cache.layer_offset) % 16 == 0);
}

}  // namespace

void LaunchStoreLatent(const StoreLatentParams& p, cudaStream_t stream) {
  const KvLayout& layout = p.cache.layout;
  const int rows = p.rows.rows;
  BALEEN_CHECK(p.latent.cols == layout.kv_lora && p.rope.cols == layout.rope);
  BALEEN_CHECK(p.latent.rows == rows && p.rope.rows == rows);
  BALEEN_CHECK_MSG(layout.kv_lora == kLatents, "a warp stores 512 latents");
  BALEEN_CHECK_MSG(layout.rope > 0 && layout.rope <= kWarpThreads * kPack, "one pack a lane");
  CheckCache(p.cache);
  const auto latent = RowsOf<const Bf16>(p.latent);
  const auto rope = RowsOf<const Bf16>(p.rope);
  if (rows == 0) return;
  const PageArray cache = ArrayOf(p.cache, 0, layout.LatentRowBytes());
  const int rope_packs = PacksOf(layout.rope);
  WithAccess(AddressBits(p.latent) | AddressBits(p.rope), [&](auto access) {
    StoreLatentKernel<access.value><<<BlocksFor(rows, kStoreWarps), kStoreThreads, 0, stream>>>(
        latent, rope, rope_packs, cache, p.rows);
  });
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

void LaunchStoreIndexKeys(const StoreIndexKeysParams& p, cudaStream_t stream) {
  const KvLayout& layout = p.cache.layout;
  BALEEN_CHECK(p.keys.cols == layout.index_dim && p.keys.rows == p.rows.rows);
  BALEEN_CHECK_MSG(layout.index_dim == kQuantGroup, "an index key is one group");
  CheckCache(p.cache);
  const auto keys = RowsOf<const Bf16>(p.keys);
  if (p.rows.rows == 0) return;
  const PageArray cache = ArrayOf(p.cache, layout.IndexKeysOffset(), layout.IndexKeyBytes());
  const PageArray scales = ArrayOf(p.cache, layout.IndexScalesOffset(), layout.IndexScaleBytes());
  const unsigned threads = ThreadsFor(p.rows.rows, kGroupPacks);
  WithAccess(AddressBits(p.keys), [&](auto access) {
    StoreIndexKeysKernel<access.value>
        <<<BlocksFor(threads, kStoreThreads), kStoreThreads, 0, stream>>>(keys, cache, scales,
                                                                          p.rows);
  });
  BALEEN_CUDA_CHECK(cudaGetLastError());
}

}  // namespace baleen::kernels::cuda
