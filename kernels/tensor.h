#pragma once

#include <cstddef>
#include <cstdint>

#include "common/dtype.h"
#include "common/kv_layout.h"

namespace baleen::kernels {

// Views of the backend's memory. They own nothing; pointers are device pointers on a GPU.

// Row-major [rows, cols]; `stride` elements from row to row, >= cols.
struct Matrix {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int rows = 0;
  int cols = 0;
  int64_t stride = 0;

  template <typename T>
  T* row(int64_t r) const {
    return static_cast<T*>(data) + r * stride;
  }
};

// fp8 rows with one power-of-two f32 scale per 128 columns: real = q * scale (docs/model.md, 4.1).
struct Quantized {
  uint8_t* data = nullptr;  // [rows, cols] e4m3, dense; nullptr: not used
  float* scales = nullptr;  // [rows, cols / 128]
  int rows = 0;
  int cols = 0;
};

// A linear layer's weight [out, in], y = x W^T. How it is stored is the backend's choice
// (Backend::weight_storage): kDequantized holds f32 whatever the file had; kNative holds the file's
// bytes. `fp8_input` says that the checkpoint stores it in fp8, so that Numerics::kFp8 feeds it
// with quantised activations.
struct Weight {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  const float* scales = nullptr;  // [ceil(out/128), ceil(in/128)] when dtype is kF8E4M3
  int out = 0;
  int in = 0;
  bool fp8_input = false;
};

enum class WeightStorage : uint8_t { kDequantized, kNative };

// The rows of one step as the kernels see them: row r is the token at positions[r] of sequence
// sequences[r], whose keys 0..positions[r] lie in page_table[sequences[r]].
//
// A row of `empty_sequence` fills up a step whose shape is fixed: it has position 0, writes nothing
// to the cache and goes to no expert; what comes out for it means nothing.
struct RowMap {
  int rows = 0;
  const int32_t* positions = nullptr;   // [rows]
  const int32_t* sequences = nullptr;   // [rows], index into page_table
  const int32_t* page_table = nullptr;  // [sequences, page_table_stride] page ids
  int page_table_stride = 0;
  int32_t empty_sequence = -1;  // -1: the step has none
};

// One layer of the page pool (common/kv_layout.h).
struct LayerCache {
  std::byte* pool = nullptr;  // page 0
  size_t page_bytes = 0;      // from page to page
  size_t layer_offset = 0;    // of this layer inside a page
  KvLayout layout;

  std::byte* layer(int32_t page) const { return pool + size_t(page) * page_bytes + layer_offset; }
};

}  // namespace baleen::kernels
