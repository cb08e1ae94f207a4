#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/float_formats.h"

// What the tests of the ops share: matrices in the backend's memory, full of NaN until written.
namespace baleen::kernels::testing {

// Standard normal, fixed by the seed.
inline std::vector<float> RandomFloats(size_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> v(n);
  for (float& x : v) x = normal(rng);
  return v;
}

// An owned [rows, cols] matrix with `padding` unused elements after each row.
class TestMatrix {
 public:
  TestMatrix(int rows, int cols, DType dtype = DType::kF32, int padding = 0)
      : bytes_(size_t(rows) * (cols + padding) * DTypeBytes(dtype) + 64, 0xFF) {
    view_ = {bytes_.data(), dtype, rows, cols, cols + padding};
  }

  static TestMatrix Random(int rows, int cols, uint32_t seed, DType dtype = DType::kF32,
                           int padding = 0) {
    TestMatrix m(rows, cols, dtype, padding);
    const std::vector<float> v = RandomFloats(size_t(rows) * cols, seed);
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < cols; ++c) m.Set(r, c, v[size_t(r) * cols + c]);
    }
    return m;
  }

  TestMatrix(const TestMatrix& other) : bytes_(other.bytes_), view_(other.view_) {
    view_.data = bytes_.data();
  }
  TestMatrix& operator=(const TestMatrix&) = delete;

  const Matrix& view() const { return view_; }
  DType dtype() const { return view_.dtype; }
  int rows() const { return view_.rows; }
  int cols() const { return view_.cols; }

  void Set(int r, int c, float v) {
    if (view_.dtype == DType::kF32) {
      view_.row<float>(r)[c] = v;
    } else {
      view_.row<uint16_t>(r)[c] = F32ToBf16(v);
    }
  }
  double At(int r, int c) const {
    return view_.dtype == DType::kF32 ? view_.row<float>(r)[c]
                                      : Bf16ToF32(view_.row<uint16_t>(r)[c]);
  }
  bool SameBytes(const TestMatrix& other) const { return bytes_ == other.bytes_; }

 private:
  std::vector<uint8_t> bytes_;  // 0xFF..: NaN in f32, bf16 and e4m3
  Matrix view_;
};

// Owned quantised rows.
class TestQuantized {
 public:
  TestQuantized(int rows, int cols)
      : data_(size_t(rows) * cols + 1, 0xFF), scales_(size_t(rows) * (cols / 128) + 1, NAN) {
    view_ = {data_.data(), scales_.data(), rows, cols};
  }
  TestQuantized(const TestQuantized&) = delete;

  const Quantized& view() const { return view_; }
  float At(int r, int c) const {
    return E4m3ToF32(data_[size_t(r) * view_.cols + c]) * Scale(r, c);
  }
  float Scale(int r, int c) const {
    return scales_[size_t(r) * (view_.cols / 128) + size_t(c) / 128];
  }

 private:
  std::vector<uint8_t> data_;
  std::vector<float> scales_;
  Quantized view_;
};

// One rounding to the dtype of the result.
inline double Tolerance(DType dtype, double value, double f32 = 1e-5) {
  return f32 * (1 + std::fabs(value)) + (dtype == DType::kBf16 ? std::fabs(value) / 256 : 0);
}

}  // namespace baleen::kernels::testing
