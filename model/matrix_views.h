#pragma once

#include "kernels/tensor.h"

namespace baleen::model {

// Parts of matrices, sharing their memory.

inline kernels::Matrix FirstRows(kernels::Matrix m, int rows) {
  m.rows = rows;
  return m;
}

inline kernels::Quantized FirstRows(kernels::Quantized q, int rows) {
  q.rows = rows;
  return q;
}

inline kernels::Matrix RowRange(kernels::Matrix m, int first, int rows) {
  if (m.data == nullptr) return m;
  m.data = static_cast<std::byte*>(m.data) + first * m.stride * DTypeBytes(m.dtype);
  m.rows = rows;
  return m;
}

inline kernels::Quantized RowRange(kernels::Quantized q, int first, int rows) {
  if (q.data == nullptr) return q;
  q.data += int64_t{first} * q.cols;
  q.scales += int64_t{first} * (q.cols / 128);
  q.rows = rows;
  return q;
}

inline kernels::Matrix ColumnRange(kernels::Matrix m, int first, int cols) {
  m.data = static_cast<std::byte*>(m.data) + size_t(first) * DTypeBytes(m.dtype);
  m.cols = cols;
  return m;
}

// The same memory as rows of `cols`, which must not be wider.
inline kernels::Matrix Dense(kernels::Matrix m, int cols) {
  m.cols = cols;
  m.stride = cols;
  return m;
}

inline kernels::Quantized Dense(kernels::Quantized q, int cols) {
  q.cols = cols;
  return q;
}

inline kernels::RowMap RowRange(kernels::RowMap map, int first, int rows) {
  map.positions += first;
  map.sequences += first;
  map.rows = rows;
  return map;
}

inline float* Floats(const kernels::Matrix& m) { return static_cast<float*>(m.data); }

}  // namespace baleen::model
