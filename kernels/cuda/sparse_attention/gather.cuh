#pragma once

#include "kernels/cuda/sparse_attention/layout.cuh"

// The producer warpgroup: brings a CTA's keys from the paged cache to shared memory, as bf16.
//
// Warp w gathers keys 16 w to 16 w + 15 of every tile. While a tile waits for its stage its cache
// rows come into registers, all at once: 41 KB an SM are in flight. Pages are looked up one tile
// before that and positions two, so that no load waits for another.
namespace baleen::kernels::cuda::sparse_attention {

inline constexpr int kWarpKeys = kTileKeys / kProducerWarps;
inline constexpr int kWarpPairs = kWarpKeys / 2;

// Where a row's keys are named and found.
struct KeyList {
  const int32_t* indices;  // of this row, or nullptr: key i is position i
  const int32_t* pages;    // of its sequence
  int keys;

  // -1: no such key.
  __device__ int Position(int key) const {
    if (key >= keys) return -1;
    return indices != nullptr ? __ldg(indices + key) : key;
  }
  __device__ int Page(int position) const {
    return position >= 0 ? __ldg(pages + position / kPageTokens) : 0;
  }
};

// nullptr for no key.
__device__ inline const std::byte* CacheRow(const Args& a, int position, int page) {
  if (position < 0) return nullptr;
  return a.layer + size_t(page) * a.page_bytes + size_t(position % kPageTokens) * kRowBytes;
}

// A warp works on two keys at once. Its lanes are two halves, interleaved by fours: half h has the
// key of parity h. So the 16-byte stores of any eight neighbouring lanes, to even chunks of one row
// and by the swizzle to odd ones of another, use all banks.
struct LanePart {
  int half;
  int index;  // in the half
};
__device__ inline LanePart PartOf(int lane) { return {lane / 4 % 2, lane / 8 * 4 + lane % 4}; }

// What lane `index` of a half has of a key: 16 latents of each of two scale groups, 2 (index / 8)
// and the next, and four elements of rope.
inline constexpr int kGroups = 2;
struct KeyPart {
  uint4 latents[kGroups];  // e4m3
  uint2 scales;            // f32
  uint2 rope;
};

// From the beginning of a cache row to what the lane loads of it.
struct LaneOffsets {
  int latent;
  int scales;
  int rope;
};

__device__ inline LaneOffsets OffsetsOf(const LanePart& part) {
  return {part.index / 8 * kGroups * kQuantGroup + part.index % 8 * 16,
          kScalesOffset + part.index / 8 * 8, kRopeOffset + part.index * 8};
}

// `pair` counts through the warp's keys. Keys that do not exist are zeros: their weight is 0, and
// so must be its product with them.
__device__ inline void LoadKey(KeyPart& key, const std::byte* rows, int pair, const LanePart& part,
                               const LaneOffsets& at) {
  const auto* row = reinterpret_cast<const std::byte*>(__shfl_sync(
      kAllLanes, reinterpret_cast<unsigned long long>(rows), LaneOfKey(2 * pair + part.half)));
  key = {};
  if (row == nullptr) return;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    key.latents[g] = ptx::LoadOnce16(row + at.latent + g * kQuantGroup);
  }
  key.scales = ptx::LoadOnce8(row + at.scales);
  key.rope = ptx::LoadOnce8(row + at.rope);
}

// Two e4m3 values, each in the high byte of its half of `spread`, times a scale, as bf16. The bits
// of an e4m3 value moved to the places of bf16 are the value times 2^-120, subnormals included.
// Exact for finite values and the cache's scales, which are powers of two (another scale would be
// rounded to bf16 first); two products because 2^120 times a large scale is beyond bf16. NaN reads
// as 480.
__device__ inline uint32_t DecodePair(uint32_t spread, uint32_t scale) {
  constexpr uint32_t kTwoTo120 = 0x7B807B80;
  const uint32_t bits = (spread & 0x80008000) | ((spread >> 4) & 0x07F007F0);
  return ptx::MulBf16x2(ptx::MulBf16x2(bits, kTwoTo120), scale);
}

// Eight e4m3 values as a chunk of bf16.
__device__ inline uint4 DecodeChunk(uint32_t low, uint32_t high, uint32_t scale) {
  constexpr unsigned kBytes01 = 0x1404;
  constexpr unsigned kBytes23 = 0x3424;
  return {DecodePair(__byte_perm(low, 0, kBytes01), scale),
          DecodePair(__byte_perm(low, 0, kBytes23), scale),
          DecodePair(__byte_perm(high, 0, kBytes01), scale),
          DecodePair(__byte_perm(high, 0, kBytes23), scale)};
}

// From the beginning of a tile to where the lane stores its parts of pair 0: 16-byte chunks, of
// rope half a chunk.
struct LanePlaces {
  uint32_t latent;
  uint32_t rope;
};

__device__ inline LanePlaces PlacesOf(int warp, const LanePart& part) {
  const int key = kWarpKeys * warp + part.half;
  const int i = part.index;
  const int panel = i / 8 * kGroups * (kQuantGroup / kPanelColumns) + i % 8 / 4;
  return {uint32_t(panel * kPanelBytes + SwizzledChunk(key, i % 4 * 2)),
          uint32_t(kLoraPanels * kPanelBytes + SwizzledChunk(key, i / 2) + i % 2 * 8)};
}

// The same chunk `keys` rows further on. Even, it has no bit in common with the lane's key of pair
// 0 modulo 8, so that the exclusive or of the swizzle is done by another one.
__device__ inline uint32_t KeysOn(uint32_t place, int keys) {
  return (place ^ uint32_t(keys % 8 * 16)) + keys * kPanelRowBytes;
}

__device__ inline void StoreKey(const KeyPart& key, int pair, const LanePlaces& places) {
  const float scales[kGroups] = {__uint_as_float(key.scales.x), __uint_as_float(key.scales.y)};
  const uint32_t latent = KeysOn(places.latent, 2 * pair);
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const __nv_bfloat162 rounded = __float2bfloat162_rn(scales[g]);
    const uint32_t scale = reinterpret_cast<const uint32_t&>(rounded);
    const uint4 bytes = key.latents[g];
    const uint32_t to = latent + g * (kQuantGroup / kPanelColumns) * kPanelBytes;
    ptx::StoreShared16(to, DecodeChunk(bytes.x, bytes.y, scale));
    ptx::StoreShared16(to ^ 16, DecodeChunk(bytes.z, bytes.w, scale));  // the next chunk
  }
  ptx::StoreShared8(KeysOn(places.rope, 2 * pair), key.rope);
}

__device__ inline void GatherKeys(const Args& a, const Job& job, SharedMemory& shared) {
  const int lane = threadIdx.x % kWarpThreads;
  const int warp = threadIdx.x / kWarpThreads % kProducerWarps;
  const KeyList list = {a.indices != nullptr ? a.indices + job.row * a.topk : nullptr,
                        a.page_table + job.sequence * a.page_table_stride, job.keys};
  const auto position_in = [&](int tile) {
    const int row_tile = job.split + tile * a.splits;
    return list.Position(row_tile * kTileKeys + kWarpKeys * warp + KeyOfLane(lane));
  };
  const int position = position_in(0);
  int next_position = position_in(1);
  int later_position = position_in(2);
  const std::byte* rows = CacheRow(a, position, list.Page(position));
  int next_page = list.Page(next_position);
  const LanePart part = PartOf(lane);
  const LaneOffsets offsets = OffsetsOf(part);
  const LanePlaces places = PlacesOf(warp, part);
  KeyPart keys[kWarpPairs];

  for (int tile = 0; tile < job.tiles; ++tile) {
#pragma unroll
    for (int pair = 0; pair < kWarpPairs; ++pair) LoadKey(keys[pair], rows, pair, part, offsets);
    const uint32_t present = __ballot_sync(kAllLanes, rows != nullptr);
    rows = CacheRow(a, next_position, next_page);
    next_position = later_position;
    next_page = list.Page(next_position);
    later_position = position_in(tile + 3);

    const int stage = StageOf(tile);
    ptx::MbarrierWait(&shared.empty[stage], ParityOf(tile) ^ 1);
    const uint32_t to = ptx::SharedAddress(shared.keys[stage]);
#pragma unroll
    for (int pair = 0; pair < kWarpPairs; ++pair) {
      StoreKey(keys[pair], pair, {to + places.latent, to + places.rope});
    }
    if (lane == 0) shared.present[stage][warp] = present;
    ptx::FenceProxyAsync();
    __syncwarp();
    if (lane == 0) ptx::MbarrierArrive(&shared.full[stage]);
  }
}

}  // namespace baleen::kernels::cuda::sparse_attention
