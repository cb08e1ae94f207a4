#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "common/dtype.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/float_formats.h"

// Shapes of the engine that multiplies rows of activations with weights, y = x W^T.
//
// A CTA computes a tile of y^T = W x^T: outputs (rows of W) are the M side of wgmma and rows of x
// its N side, so one instruction family serves one row as well as thousands. A producer warpgroup
// brings 128 bytes of K at a time of each operand to a ring of stages; the consumer warpgroups
// multiply. CTAs are persistent, and the ring runs on from tile to tile.
//
// Batch invariance: an element of y is one sum over K whose order depends on the shape of W only.
// K is cut into chunks (chunks.h); every configuration adds a chunk's products in ascending order,
// and then the chunks in ascending order.
namespace baleen::kernels::cuda::gemm {

inline constexpr int kBlockBytes = 128;    // of K in a stage: one row of the swizzle
inline constexpr int kInstructionK = 32;   // bytes of K that one wgmma takes
inline constexpr int kGroupThreads = 128;  // a warpgroup
inline constexpr int kGroupOut = 64;       // M of wgmma
inline constexpr int kCopyBytes = 16;
inline constexpr int kRowCopies = kBlockBytes / kCopyBytes;
inline constexpr int kPassRows = kGroupThreads / kRowCopies;  // the producers copy at a time

// How a configuration sums the chunks of K.
enum class Chunks {
  kOne,    // there is one only
  kSplit,  // one CTA a chunk; the last to arrive adds them
  kFold    // one CTA walks through all of them
};

// kRows rows of x by 64 * kGroups * kParts outputs: each of the kGroups consumer warpgroups has
// kParts blocks of 64.
template <DType kDType, int kTileRows, int kConsumerGroups, int kGroupParts, Chunks kChunkOrder>
struct Config {
  static constexpr DType kType = kDType;
  static constexpr bool kScaled = kType == DType::kF8E4M3;
  static constexpr int kRows = kTileRows;
  static constexpr int kGroups = kConsumerGroups;
  static constexpr int kParts = kGroupParts;
  static constexpr Chunks kChunks = kChunkOrder;

  static constexpr int kOut = kGroupOut * kGroups * kParts;
  static constexpr int kSums = kRows / 2;  // a thread holds of each part
  static constexpr int kScaleBlocks = (kOut + kQuantGroup - 1) / kQuantGroup;  // of W, in a tile
  static constexpr int kThreads = kGroupThreads * (1 + kGroups);
  static constexpr int kConsumerWarps = 4 * kGroups;

  // One consumer warpgroup leaves room for a second CTA on the SM. At launch a thread has 128
  // registers then, else 168; what the roles take of them comes to the same sum.
  static constexpr int kCtas = kGroups == 1 ? 2 : 1;
  static constexpr int kProducerRegisters = kGroups == 1 ? 48 : 56;
  static constexpr int kConsumerRegisters = kGroups == 1 ? 208 : 224;
  static constexpr int kLaunchRegisters = 65536 / (kCtas * kThreads) / 8 * 8;
  static_assert(kProducerRegisters + kGroups * kConsumerRegisters <=
                (1 + kGroups) * kLaunchRegisters);

  // 227 KiB an SM, less 1 KiB that each further CTA reserves; 2 KiB for what is not a stage.
  static constexpr int kSharedBytes = kCtas == 2 ? 113 << 10 : 227 << 10;
  static constexpr int kStageBytes = (kOut + kRows) * kBlockBytes +
                                     (kScaled ? (kRows + kScaleBlocks) * int(sizeof(float)) : 0) +
                                     2 * int(sizeof(uint64_t));
  static constexpr int kStages = std::min(16, (kSharedBytes - (2 << 10)) / kStageBytes);

  static_assert(kGroups == 1 || kGroups == 2);
  static_assert(kChunks != Chunks::kSplit || (kGroups == 1 && kParts == 1));
  static_assert(kRows % kPassRows == 0 && kRows <= kGroupThreads);
};

// Row r of a tile lies at r * 128 bytes; its 16-byte pieces change places (128-byte swizzle).
template <typename C, typename ScheduleShared>
struct alignas(1024) Shared {
  uint8_t weights[C::kStages][C::kOut * kBlockBytes];
  uint8_t inputs[C::kStages][C::kRows * kBlockBytes];
  float row_scales[C::kStages][C::kScaled ? C::kRows : 2];
  float weight_scales[C::kStages][C::kScaled ? C::kScaleBlocks : 1];
  uint64_t full[C::kStages];   // the stage's copies have come
  uint64_t empty[C::kStages];  // all consumers have read them
  ScheduleShared schedule;
  bool adds_chunks;  // kSplit: this CTA came last
};

__device__ inline uint32_t SwizzledOffset(int row, int piece) {
  return row * kBlockBytes + (piece ^ row % 8) * kCopyBytes;
}

// Where the pipeline stands: stage and the parity of its barriers' phase.
template <typename C>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;

  __device__ void Advance() {
    if (++stage < C::kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

}  // namespace baleen::kernels::cuda::gemm
