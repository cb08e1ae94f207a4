// Linear and HeadLinear: products with a weight, cut into blocks of rows and columns that the pool
// shares. A block never splits a sum, so results do not depend on the cut.
#include <algorithm>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/rows.h"

namespace baleen::kernels::cpu {
namespace {

constexpr int kBlockRows = 96;        // multiple of every tile height in simd_gemm.cc
constexpr int kMinBlockColumns = 32;  // multiple of the tile width

struct Blocks {
  int64_t row_blocks;
  int column_blocks;
  int columns;  // of a block, the last may have fewer
  int64_t count() const { return row_blocks * column_blocks; }
};

// Few rows: columns are cut too, until each thread has some blocks to take.
Blocks Cut(int64_t rows, int columns, int threads) {
  const int64_t row_blocks = (rows + kBlockRows - 1) / kBlockRows;
  const int64_t wanted = threads == 1 ? 1 : 4 * threads;
  const int most = std::max(1, columns / kMinBlockColumns);
  const int cuts =
      static_cast<int>(std::clamp<int64_t>(wanted / std::max<int64_t>(row_blocks, 1), 1, most));
  const int width = ((columns + cuts - 1) / cuts + 7) / 8 * 8;
  return {row_blocks, (columns + width - 1) / width, width};
}

}  // namespace

void CpuBackend::Linear(const LinearParams& p) {
  const int in = p.w.in;
  const int out = p.w.out;
  const bool quantized = p.w.fp8_input && p.xq.data != nullptr;
  const int rows = p.y.rows;
  BALEEN_CHECK(p.w.dtype == DType::kF32 && p.y.cols == out);
  if (quantized) {
    CheckQuantized(p.xq, rows, in);
  } else {
    BALEEN_CHECK(p.x.cols == in && p.x.rows == rows);
  }
  const auto* weight = static_cast<const float*>(p.w.data);
  const Blocks blocks = Cut(rows, out, pool_.threads());
  pool_.ParallelFor(blocks.count(), int64_t{rows} * in * out, [&](int worker, int64_t item) {
    Scratch& scratch = scratch_[worker];
    const int64_t begin = item / blocks.column_blocks * kBlockRows;
    const int count = static_cast<int>(std::min<int64_t>(kBlockRows, rows - begin));
    const int column = static_cast<int>(item % blocks.column_blocks) * blocks.columns;
    const int columns = std::min(blocks.columns, out - column);

    const float* x = p.x.dtype == DType::kF32 && !quantized ? p.x.row<float>(begin) : nullptr;
    int64_t x_stride = p.x.stride;
    if (x == nullptr) {
      float* rows_f32 = scratch.input.Get<float>(int64_t{count} * in);
      for (int r = 0; r < count; ++r) {
        if (quantized) {
          DequantizeRow(p.xq, begin + r, rows_f32 + int64_t{r} * in);
        } else {
          ReadSpan(p.x, begin + r, 0, in, rows_f32 + int64_t{r} * in);
        }
      }
      x = rows_f32;
      x_stride = in;
    }
    const bool direct = p.y.dtype == DType::kF32;
    float* y = direct ? p.y.row<float>(begin) + column
                      : scratch.output.Get<float>(int64_t{count} * columns);
    const int64_t y_stride = direct ? p.y.stride : columns;
    simd::MultiplyTransposed(x, x_stride, count, weight + int64_t{column} * in, in, columns, in, y,
                             y_stride);
    if (direct) return;
    for (int r = 0; r < count; ++r) {
      WriteSpan(y + int64_t{r} * columns, p.y, begin + r, column, columns);
    }
  });
}

void CpuBackend::HeadLinear(const HeadLinearParams& p) {
  BALEEN_CHECK(p.w_dtype == DType::kF32 && p.in <= p.x_head_stride);
  BALEEN_CHECK(int64_t{p.heads} * p.x_head_stride <= p.x.cols && p.heads * p.out == p.y.cols);
  const int rows = p.x.rows;
  const int64_t row_blocks = (rows + kBlockRows - 1) / kBlockRows;
  const int64_t macs = int64_t{rows} * p.heads * p.in * p.out;
  pool_.ParallelFor(row_blocks * p.heads, macs, [&](int worker, int64_t item) {
    Scratch& scratch = scratch_[worker];
    const int64_t begin = item / p.heads * kBlockRows;
    const int count = static_cast<int>(std::min<int64_t>(kBlockRows, rows - begin));
    const int head = static_cast<int>(item % p.heads);
    const float* w = static_cast<const float*>(p.w) + int64_t{head} * p.out * p.in;

    const bool f32 = p.x.dtype == DType::kF32;
    const int64_t x_begin = int64_t{head} * p.x_head_stride;
    float* buffer = f32 ? nullptr : scratch.input.Get<float>(int64_t{count} * p.in);
    for (int r = 0; !f32 && r < count; ++r) {
      ReadSpan(p.x, begin + r, x_begin, p.in, buffer + int64_t{r} * p.in);
    }
    const float* x = f32 ? p.x.row<float>(begin) + x_begin : buffer;
    const int64_t y_begin = int64_t{head} * p.out;
    const bool direct = p.y.dtype == DType::kF32;
    float* y = direct ? p.y.row<float>(begin) + y_begin
                      : scratch.output.Get<float>(int64_t{count} * p.out);
    simd::MultiplyTransposed(x, f32 ? p.x.stride : p.in, count, w, p.in, p.out, p.in, y,
                             direct ? p.y.stride : p.out);
    for (int r = 0; !direct && r < count; ++r) {
      WriteSpan(y + int64_t{r} * p.out, p.y, begin + r, y_begin, p.out);
    }
  });
}

}  // namespace baleen::kernels::cpu
