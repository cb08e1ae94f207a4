// Linear and HeadLinear: the launchers choose a shape of the engine (gemm/config.cuh) for the
// number of rows. All shapes give a row the same bits.
#include "kernels/cuda/gemm/kernel.cuh"
#include "kernels/cuda/gemm/setup.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/packs.cuh"

namespace baleen::kernels::cuda {
namespace {

using gemm::Aligned16;
using gemm::CeilDiv;
using gemm::Chunks;
using gemm::Problem;
using gemm::SetBf16Input;
using gemm::SetOutput;
using gemm::SetShape;
using gemm::StridedSchedule;

// Weights stream: small tiles, two CTAs an SM, K split over CTAs where W has few outputs.
template <DType kType, int kRows>
using Streaming = gemm::Config<kType, kRows, /*groups=*/1, /*parts=*/1, Chunks::kSplit>;
// 128 x 128, with registers for the fold of the chunks of K.
template <DType kType>
using Folding = gemm::Config<kType, 128, /*groups=*/2, /*parts=*/1, Chunks::kFold>;
// 256 outputs x 128 rows: a third less traffic from the second-level cache.
template <DType kType>
using Wide = gemm::Config<kType, 128, /*groups=*/2, /*parts=*/2, Chunks::kOne>;

constexpr int kWideOut = Wide<DType::kBf16>::kOut;
constexpr int kFoldingOut = Folding<DType::kBf16>::kOut;
constexpr int kLargeRows = 128;   // of a tile
constexpr int kEnoughTiles = 96;  // of 132 SMs

enum class Shape : uint8_t { kRows16, kRows64, kRows128, kFolding, kWide };

// Only speed depends on this.
Shape ChooseShape(const Problem& p, int rows, int batches) {
  if (rows <= 16) return Shape::kRows16;
  if (rows <= 64) return Shape::kRows64;
  if (p.chunks > 1) return rows <= gemm::kMostSplitRows ? Shape::kRows128 : Shape::kFolding;
  const auto tiles = [&](int tile_out) {
    return int64_t{CeilDiv(rows, kLargeRows)} * CeilDiv(p.out, tile_out) * batches;
  };
  if (p.out > kFoldingOut && tiles(kWideOut) >= kEnoughTiles) return Shape::kWide;
  return tiles(kFoldingOut) >= kEnoughTiles ? Shape::kFolding : Shape::kRows128;
}

// Room for partial sums, and a counter for each tile.
void UseWorkspace(const Workspace& workspace, size_t items, size_t item_bytes, Problem& p) {
  BALEEN_CHECK_MSG(items / p.chunks <= size_t(workspace.counter_count), "too few counters");
  BALEEN_CHECK_MSG(items * item_bytes <= workspace.bytes, "the step exceeds its StepLimits");
  p.partials = reinterpret_cast<float4*>(workspace.data);
  p.counters = workspace.counters;
}

template <typename C>
void Launch(Problem p, StridedSchedule schedule, int batches, const Workspace& workspace,
            cudaStream_t stream) {
  schedule.row_tiles = CeilDiv(schedule.rows, C::kRows);
  schedule.out_tiles = CeilDiv(p.out, C::kOut);
  const int64_t tiles = int64_t{schedule.row_tiles} * schedule.out_tiles * batches;
  const int64_t items = C::kChunks == Chunks::kSplit ? tiles * p.chunks : tiles;
  BALEEN_CHECK(items <= INT_MAX);
  schedule.items = static_cast<int>(items);
  if (C::kChunks == Chunks::kSplit && p.chunks > 1) {
    UseWorkspace(workspace, items, C::kOut * C::kRows * sizeof(float), p);
  }
  gemm::LaunchGemm<C>(p, schedule, items, stream);
}

template <DType kType>
void LaunchShape(const Problem& p, const StridedSchedule& schedule, int batches,
                 const Workspace& workspace, cudaStream_t stream) {
  switch (ChooseShape(p, schedule.rows, batches)) {
    case Shape::kRows16:
      return Launch<Streaming<kType, 16>>(p, schedule, batches, workspace, stream);
    case Shape::kRows64:
      return Launch<Streaming<kType, 64>>(p, schedule, batches, workspace, stream);
    case Shape::kRows128:
      return Launch<Streaming<kType, 128>>(p, schedule, batches, workspace, stream);
    case Shape::kFolding:
      return Launch<Folding<kType>>(p, schedule, batches, workspace, stream);
    case Shape::kWide:
      return Launch<Wide<kType>>(p, schedule, batches, workspace, stream);
  }
}

void LaunchFp8(const LinearParams& p, const Workspace& workspace, cudaStream_t stream) {
  const int rows = p.y.rows;
  BALEEN_CHECK_MSG(p.xq.data != nullptr, "fp8 weights multiply fp8 rows");
  CheckQuantized(p.xq, rows, p.w.in);
  BALEEN_CHECK(p.w.scales != nullptr && Aligned16(p.w.data));
  Problem problem;
  SetShape(p.w.out, p.w.in, DType::kF8E4M3, /*cut=*/true, problem);
  SetOutput(p.y, p.w.out, problem);
  problem.x_stride = p.w.in;
  const StridedSchedule schedule = {.w = static_cast<const uint8_t*>(p.w.data),
                                    .w_scales = p.w.scales,
                                    .x = p.xq.data,
                                    .x_scales = p.xq.scales,
                                    .rows = rows};
  LaunchShape<DType::kF8E4M3>(problem, schedule, /*batches=*/1, workspace, stream);
}

void LaunchBf16(const LinearParams& p, const Workspace& workspace, cudaStream_t stream) {
  BALEEN_CHECK(p.x.cols == p.w.in && p.x.rows == p.y.rows);
  BALEEN_CHECK(Aligned16(p.w.data));
  Problem problem;
  SetShape(p.w.out, p.w.in, DType::kBf16, /*cut=*/true, problem);
  SetBf16Input(p.x, problem);
  SetOutput(p.y, p.w.out, problem);
  const StridedSchedule schedule = {.w = static_cast<const uint8_t*>(p.w.data),
                                    .x = static_cast<const uint8_t*>(p.x.data),
                                    .rows = p.y.rows};
  LaunchShape<DType::kBf16>(problem, schedule, /*batches=*/1, workspace, stream);
}

}  // namespace

size_t LinearBytes(const StepLimits& limits) {
  return gemm::MostSplitBytes(std::max(limits.rows, limits.head_rows));
}

void LaunchLinear(const LinearParams& p, Workspace workspace, cudaStream_t stream) {
  BALEEN_CHECK(p.y.cols == p.w.out);
  BALEEN_CHECK_MSG(p.w.dtype != DType::kF32, "the GPU multiplies fp8 and bf16 weights");
  if (p.y.rows == 0) return;
  if (p.w.dtype == DType::kF8E4M3) {
    LaunchFp8(p, workspace, stream);
  } else {
    LaunchBf16(p, workspace, stream);
  }
}

void LaunchHeadLinear(const HeadLinearParams& p, Workspace workspace, cudaStream_t stream) {
  BALEEN_CHECK(p.in <= p.x_head_stride && p.x.rows == p.y.rows);
  BALEEN_CHECK(int64_t{p.heads} * p.x_head_stride <= p.x.cols && p.heads * p.out == p.y.cols);
  BALEEN_CHECK_MSG(p.w_dtype == DType::kBf16, "the GPU multiplies bf16 weights of heads");
  if (p.x.rows == 0) return;
  BALEEN_CHECK(p.x_head_stride % 8 == 0 && Aligned16(p.w));
  constexpr int64_t kElement = sizeof(uint16_t);
  Problem problem;
  SetShape(p.out, p.in, DType::kBf16, /*cut=*/false, problem);
  SetBf16Input(p.x, problem);
  SetOutput(p.y, p.out, problem);
  const StridedSchedule schedule = {.w = static_cast<const uint8_t*>(p.w),
                                    .w_step = int64_t{p.out} * p.in * kElement,
                                    .x = static_cast<const uint8_t*>(p.x.data),
                                    .x_step = p.x_head_stride * kElement,
                                    .y_step = p.out,
                                    .rows = p.x.rows};
  LaunchShape<DType::kBf16>(problem, schedule, p.heads, workspace, stream);
}

}  // namespace baleen::kernels::cuda
