#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "kernels/test_cache.h"
#include "kernels/testing.h"

// Each op on the GPU against the same op on the CPU (kFp8 arithmetic), on the same random inputs.
// Without a GPU these tests fail; they never skip.
namespace baleen::kernels::testing {

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto gpu = MakeCudaBackend(/*device=*/0);
    ASSERT_TRUE(gpu.ok()) << gpu.status().ToString();
    gpu_ = *std::move(gpu);
  }
  void TearDown() override {
    if (gpu_ == nullptr) return;
    gpu_->Synchronize();
    for (const Piece& piece : memory_) {
      const std::vector<uint8_t> guard = Download(piece.data + piece.bytes, kGuardBytes);
      EXPECT_EQ(guard, std::vector<uint8_t>(kGuardBytes, 0xFF)) << "written beyond the end";
      gpu_->Free(piece.data);
    }
    gpu_.reset();  // after its memory
  }

  // A copy of host memory that lives until the test ends. A guard of 0xFF follows it, which no op
  // may touch.
  template <typename T>
  T* Upload(const T* host, size_t count) {
    std::vector<std::byte> bytes(count * sizeof(T) + kGuardBytes, std::byte{0xFF});
    if (count > 0) std::memcpy(bytes.data(), host, count * sizeof(T));
    void* p = gpu_->Allocate(bytes.size());
    EXPECT_NE(p, nullptr) << bytes.size() << " bytes";
    memory_.push_back({static_cast<uint8_t*>(p), count * sizeof(T)});
    gpu_->CopyIn(p, bytes.data(), bytes.size());
    gpu_->Synchronize();
    return static_cast<T*>(p);
  }
  template <typename T>
  T* Upload(const std::vector<T>& host) {
    return Upload(host.data(), host.size());
  }
  // Memory full of 0xFF: NaN in every float format, -1 in integers.
  template <typename T>
  T* Poisoned(size_t count) {
    return reinterpret_cast<T*>(Upload(std::vector<uint8_t>(count * sizeof(T), 0xFF)));
  }
  template <typename T>
  std::vector<T> Download(const T* device, size_t count) {
    std::vector<T> host(count);
    gpu_->CopyOut(host.data(), device, count * sizeof(T));
    gpu_->Synchronize();
    return host;
  }

  // The matrix with its padding, on the device.
  Matrix Upload(const TestMatrix& m) {
    Matrix view = m.view();
    view.data = Upload(static_cast<const std::byte*>(view.data),
                       size_t(view.rows) * view.stride * DTypeBytes(view.dtype));
    return view;
  }
  Quantized Upload(const Quantized& q) {
    return {Upload(q.data, size_t(q.rows) * q.cols),
            Upload(q.scales, size_t(q.rows) * (q.cols / 128)), q.rows, q.cols};
  }
  Quantized PoisonedQuantized(int rows, int cols) {
    return {Poisoned<uint8_t>(size_t(rows) * cols), Poisoned<float>(size_t(rows) * (cols / 128)),
            rows, cols};
  }
  // Bytes and scales on the device are those of `want`, which is in host memory.
  void ExpectSame(const Quantized& device, const Quantized& want) {
    const std::vector<uint8_t> data = Download(device.data, size_t(want.rows) * want.cols);
    const std::vector<float> scales = Download(device.scales, size_t(want.rows) * want.cols / 128);
    for (size_t i = 0; i < data.size(); ++i) {
      ASSERT_EQ(data[i], want.data[i]) << "row " << i / want.cols << " column " << i % want.cols;
    }
    for (size_t i = 0; i < scales.size(); ++i)
      ASSERT_EQ(scales[i], want.scales[i]) << "group " << i;
  }
  // Overwrites the host matrix with the device's.
  void Download(const Matrix& device, TestMatrix& host) {
    const size_t bytes = size_t(device.rows) * device.stride * DTypeBytes(device.dtype);
    const std::vector<std::byte> got = Download(static_cast<const std::byte*>(device.data), bytes);
    std::memcpy(host.view().data, got.data(), bytes);
  }

  RowMap Upload(const RowMap& rows, int sequences) {
    return {rows.rows, Upload(rows.positions, rows.rows), Upload(rows.sequences, rows.rows),
            Upload(rows.page_table, size_t(sequences) * rows.page_table_stride),
            rows.page_table_stride};
  }
  // The pool as it is now.
  LayerCache Upload(const TestCache& cache) {
    LayerCache device = cache.cache();
    device.pool = Upload(cache.bytes());
    return device;
  }

  // Gives the backend scratch for steps within `limits`.
  void ReserveScratch(const StepLimits& limits) {
    const size_t bytes = gpu_->ScratchBytes(limits);
    gpu_->UseScratch(limits, Poisoned<std::byte>(bytes), bytes);
  }

  std::unique_ptr<Backend> gpu_;
  std::unique_ptr<Backend> cpu_ = MakeCpuBackend(2);

 private:
  static constexpr size_t kGuardBytes = 256;
  struct Piece {
    uint8_t* data;
    size_t bytes;  // without the guard
  };
  std::vector<Piece> memory_;
};

// A random fp8 weight [out, in] with a power-of-two scale per 128 x 128 block, as the checkpoint
// has it (`native`, host pointers) and as f32 (`dequantized`, what the CPU multiplies). Elements of
// y = x W^T are of order one for x of order one.
class TestFp8Weight {
 public:
  TestFp8Weight(int out, int in, uint32_t seed)
      : bytes_(size_t(out) * in), floats_(bytes_.size()), blocks_((in + 127) / 128) {
    scales_.resize(size_t((out + 127) / 128) * blocks_);
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    const int shrink = static_cast<int>(std::ceil(std::log2(std::sqrt(float(in)))));
    for (float& s : scales_) s = std::ldexp(1.0f, -shrink - static_cast<int>(rng() % 3));
    for (size_t i = 0; i < bytes_.size(); ++i) {
      bytes_[i] = F32ToE4m3(normal(rng));
      floats_[i] = E4m3ToF32(bytes_[i]) * scales_[i / in / 128 * blocks_ + i % in / 128];
    }
    native = {bytes_.data(), DType::kF8E4M3, scales_.data(), out, in, true};
    dequantized = {floats_.data(), DType::kF32, nullptr, out, in, true};
  }
  TestFp8Weight(const TestFp8Weight&) = delete;

  const std::vector<uint8_t>& bytes() const { return bytes_; }
  const std::vector<float>& scales() const { return scales_; }

  Weight native;
  Weight dequantized;

 private:
  std::vector<uint8_t> bytes_;
  std::vector<float> floats_;
  int blocks_;
  std::vector<float> scales_;
};

// The same for bf16.
class TestBf16Weight {
 public:
  TestBf16Weight(int out, int in, uint32_t seed) : floats_(RandomFloats(size_t(out) * in, seed)) {
    const float shrink = 1.0f / std::sqrt(float(in));
    for (float& v : floats_) bytes_.push_back(F32ToBf16(v = RoundToBf16(v * shrink)));
    native = {bytes_.data(), DType::kBf16, nullptr, out, in, false};
    dequantized = {floats_.data(), DType::kF32, nullptr, out, in, false};
  }
  TestBf16Weight(const TestBf16Weight&) = delete;

  const std::vector<uint16_t>& bytes() const { return bytes_; }

  Weight native;
  Weight dequantized;

 private:
  std::vector<float> floats_;
  std::vector<uint16_t> bytes_;
};

// Largest error of a sum of `terms` products of order `magnitude` in f32, in any order, and one
// rounding to `dtype` at each side.
inline double SumTolerance(DType dtype, int terms, double want, double magnitude = 1) {
  const double f32 = 4 * std::sqrt(double(terms)) * 6e-8 * magnitude + 1e-6 * std::fabs(want);
  return f32 + (dtype == DType::kBf16 ? std::fabs(want) / 128 + f32 : 0);
}

// Every element of `got` is within SumTolerance of `want`; prints the largest error.
inline void ExpectClose(const TestMatrix& got, const TestMatrix& want, int terms,
                        double magnitude = 1) {
  ASSERT_EQ(got.rows(), want.rows());
  ASSERT_EQ(got.cols(), want.cols());
  double worst = 0;
  for (int r = 0; r < want.rows(); ++r) {
    for (int c = 0; c < want.cols(); ++c) {
      const double tolerance = SumTolerance(want.dtype(), terms, want.At(r, c), magnitude);
      const double error = std::fabs(got.At(r, c) - want.At(r, c));
      ASSERT_LE(error, tolerance) << "row " << r << " column " << c << ": got " << got.At(r, c)
                                  << ", want " << want.At(r, c);
      worst = std::max(worst, error / tolerance);
    }
  }
  ::testing::Test::RecordProperty("worst_error_over_tolerance", std::to_string(worst));
}

// Row r alone.
inline TestMatrix RowOf(const TestMatrix& m, int r) {
  TestMatrix row(1, m.cols(), m.dtype(), int(m.view().stride) - m.cols());
  std::memcpy(
      row.view().data,
      static_cast<const std::byte*>(m.view().data) + r * m.view().stride * DTypeBytes(m.dtype()),
      m.view().stride * DTypeBytes(m.dtype()));
  return row;
}

// `got` was rounded to bf16 from values that are `want`'s but for the last bits of f32 (`absolute`
// where terms cancel): no element is more than one step away, and hardly any differs at all. What
// lies between the rows is the same.
inline void ExpectSameButForRounding(const TestMatrix& got, const TestMatrix& want,
                                     double absolute = 0) {
  ASSERT_EQ(want.dtype(), DType::kBf16);
  ASSERT_EQ(got.cols(), want.cols());
  ASSERT_EQ(got.view().stride, want.view().stride);
  int64_t different = 0;
  for (int r = 0; r < want.rows(); ++r) {
    const uint16_t* got_row = got.view().row<uint16_t>(r);
    const uint16_t* want_row = want.view().row<uint16_t>(r);
    for (int c = 0; c < want.view().stride; ++c) {
      if (got_row[c] == want_row[c]) continue;
      ASSERT_LT(c, want.cols()) << "row " << r << ": written beyond its end";
      if (std::isnan(got.At(r, c)) && std::isnan(want.At(r, c))) continue;
      ASSERT_NEAR(got.At(r, c), want.At(r, c), std::fabs(want.At(r, c)) / 128 + absolute)
          << "row " << r << " column " << c;
      ++different;
    }
  }
  EXPECT_LE(different, 1 + int64_t{want.rows()} * want.cols() / 200);
}

// Rows of values that kernels get wrong: zeros of both signs, huge, tiny and mixed magnitudes,
// exact powers of two and, where `nan` is set, NaNs of both signs. Every eighth row stays as it is.
inline void SetSpecialRows(TestMatrix& m, bool nan) {
  for (int r = 0; r < m.rows(); ++r) {
    for (int c = 0; c < m.cols(); ++c) {
      const float v = float(m.At(r, c));
      const float sign = c % 3 == 0 ? -1.0f : 1.0f;
      switch (r % 8) {
        case 1:
          m.Set(r, c, sign * 0.0f);
          break;
        case 2:
          m.Set(r, c, v * 5e37f);
          break;
        case 3:
          m.Set(r, c, v * 1e-30f);
          break;
        case 4:
          m.Set(r, c, sign * std::ldexp(c % 5 == 0 ? 448.0f : 1.0f, c / 128 % 7 - 3));
          break;
        case 5:
          m.Set(r, c, std::ldexp(v, c % 41 - 20));
          break;
        case 6:
          m.Set(r, c, nan && c % 50 == 7 ? std::copysign(NAN, sign) : v * 1e-3f);
          break;
        case 7:
          m.Set(r, c, c == m.cols() / 2 ? 3e4f : 0.0f);
          break;
      }
    }
  }
}

}  // namespace baleen::kernels::testing
