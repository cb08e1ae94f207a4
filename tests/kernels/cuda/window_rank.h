#pragma once

#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "common/check.h"
#include "kernels/cuda/parity.h"
#include "kernels/expert_window.h"
#include "testing/status_matchers.h"

// What tests of expert windows have in common, whatever the wire.
namespace baleen::kernels::testing {

inline std::vector<uint8_t> Noise(size_t bytes, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> noise(bytes);
  for (uint8_t& b : noise) b = uint8_t(random());
  return noise;
}

// What a rank brings to a call.
struct Rows {
  std::vector<uint8_t> x;  // fp8 or bf16
  std::vector<float> scales;
  std::vector<int32_t> ids;
};

inline Rows SomeRows(const ExpertWindowOptions& o, int rows, uint32_t seed) {
  Rows r = {.x = Noise(size_t(rows) * o.dim * (o.fp8 ? 1 : 2), seed)};
  std::mt19937 random(seed);
  for (int i = 0; i < rows * o.dim / 128; ++i) r.scales.push_back(float(random()));
  for (int i = 0; i < rows; ++i) {
    std::set<int32_t> ids;  // distinct; some rows have fewer, and some none
    const int count = i % 7 == 6 ? 0 : 1 + i % o.topk;
    while (int(ids.size()) < count) ids.insert(int32_t(random() % uint32_t(o.experts)));
    r.ids.insert(r.ids.end(), ids.begin(), ids.end());
    r.ids.insert(r.ids.end(), size_t(o.topk - count), -1);
  }
  return r;
}

inline ExpertWindowOptions WindowOptions(int ranks, int dim, bool fp8) {
  return {.ranks = ranks,
          .experts = 8 * ranks,
          .topk = 4,
          .dim = dim,
          .max_rows = 40,
          .fp8 = fp8,
          .deadline = std::chrono::seconds(20)};
}

// One rank: a backend, and so a stream, of its own on `device`, and a window. Used on the thread
// that made it, unless all ranks are on one device.
class WindowRank {
 public:
  explicit WindowRank(const ExpertWindowOptions& options, int device = 0) : options_(options) {
    auto backend = MakeCudaBackend(device);
    BALEEN_CHECK_MSG(backend.ok(), backend.status().ToString().c_str());
    backend_ = *std::move(backend);
    auto window = backend_->MakeExpertWindow(options);
    BALEEN_CHECK_MSG(window.ok(), window.status().ToString().c_str());
    this->window = *std::move(window);
  }
  ~WindowRank() {
    backend_->Synchronize();
    window.reset();
    for (void* p : memory_) backend_->Free(p);
  }

  template <typename T>
  T* Upload(const std::vector<T>& host) {
    void* p = backend_->Allocate(host.size() * sizeof(T));
    memory_.push_back(p);
    backend_->CopyIn(p, host.data(), host.size() * sizeof(T));
    backend_->Synchronize();
    return static_cast<T*>(p);
  }
  template <typename T>
  std::vector<T> Download(const T* device, size_t count) {
    std::vector<T> host(count);
    backend_->CopyOut(host.data(), device, count * sizeof(T));
    backend_->Synchronize();
    return host;
  }
  Backend& backend() { return *backend_; }
  size_t x_bytes() const { return size_t(options_.dim) * (options_.fp8 ? 1 : 2); }
  size_t out_bytes() const { return size_t(options_.dim) * 2; }
  int OwnerOf(int32_t id) const { return id < 0 ? -1 : id / (options_.experts / options_.ranks); }

  // Rows on the device.
  struct Operands {
    Matrix x;
    Quantized xq;
    int32_t* ids = nullptr;
  };
  Operands Put(const Rows& rows, int count) {
    uint8_t* const x = Upload(rows.x);
    Operands o = {.x = {x, DType::kBf16, count, options_.dim, options_.dim},
                  .ids = Upload(rows.ids)};
    if (options_.fp8) o.xq = {x, Upload(rows.scales), count, options_.dim};
    return o;
  }
  // Other rows of the same number in their place.
  void Replace(const Operands& o, const Rows& rows) {
    backend_->CopyIn(o.x.data, rows.x.data(), rows.x.size());
    if (options_.fp8) backend_->CopyIn(o.xq.scales, rows.scales.data(), rows.scales.size() * 4);
    backend_->CopyIn(o.ids, rows.ids.data(), rows.ids.size() * 4);
    backend_->Synchronize();
  }
  // Operands of a call without rows, and of one with a row of zeros.
  Operands NoRows() { return Put({.x = {0}, .scales = {0}, .ids = {0}}, 0); }
  Operands OneRow() {
    return Put({.x = std::vector<uint8_t>(x_bytes()),
                .scales = std::vector<float>(size_t(options_.dim) / 128),
                .ids = std::vector<int32_t>(size_t(options_.topk))},
               1);
  }
  ExpertWindow::Received Dispatch(const Operands& o) { return window->Dispatch(o.x, o.xq, o.ids); }
  // [pairs, dim] of bf16.
  Matrix PutOutputs(const std::vector<uint8_t>& outputs) {
    return {Upload(outputs), DType::kBf16, int(outputs.size() / out_bytes()), options_.dim,
            options_.dim};
  }

  // Received rows are those of `all`, by rank, as far as this rank has one of their experts.
  void ExpectReceived(const ExpertWindow::Received& in, const std::vector<Rows>& all, int count) {
    ASSERT_EQ(in.rows, count * options_.ranks);
    const auto ids = Download(in.ids, size_t(in.rows) * options_.topk);
    const auto* data = options_.fp8 ? in.xq.data : static_cast<const uint8_t*>(in.x.data);
    const auto x = Download(data, size_t(in.rows) * x_bytes());
    const size_t scales_a_row = size_t(options_.dim / 128);
    std::vector<float> scales;
    if (options_.fp8) scales = Download(in.xq.scales, size_t(in.rows) * scales_a_row);
    for (int i = 0; i < in.rows; ++i) {
      const Rows& from = all[size_t(i / count)];
      const size_t row = size_t(i % count);
      bool wanted = false;
      for (size_t j = 0; j < size_t(options_.topk); ++j) {
        const int32_t id = ids[size_t(i) * options_.topk + j];
        ASSERT_EQ(id, from.ids[row * options_.topk + j]);
        wanted = wanted || OwnerOf(id) == options_.rank;
      }
      if (!wanted) continue;
      ASSERT_EQ(std::memcmp(&x[size_t(i) * x_bytes()], &from.x[row * x_bytes()], x_bytes()), 0)
          << "rank " << options_.rank << " row " << i;
      if (options_.fp8) {
        ASSERT_EQ(std::memcmp(&scales[size_t(i) * scales_a_row], &from.scales[row * scales_a_row],
                              scales_a_row * sizeof(float)),
                  0);
      }
    }
  }

  // Results are what the owner of each expert computed (`outputs`, by rank) for that row.
  void ExpectResults(const Matrix& results, const Rows& own,
                     const std::vector<std::vector<uint8_t>>& outputs, int count) {
    ASSERT_EQ(results.rows, count * options_.topk);
    const auto got =
        Download(static_cast<const uint8_t*>(results.data), size_t(results.rows) * out_bytes());
    for (int i = 0; i < results.rows; ++i) {
      const int owner = OwnerOf(own.ids[size_t(i)]);
      if (owner < 0) continue;
      const size_t there = (size_t(options_.rank) * count * options_.topk + i) * out_bytes();
      ASSERT_EQ(
          std::memcmp(&got[size_t(i) * out_bytes()], &outputs[size_t(owner)][there], out_bytes()),
          0)
          << "rank " << options_.rank << " pair " << i;
    }
  }

  std::unique_ptr<ExpertWindow> window;

 private:
  const ExpertWindowOptions options_;
  std::unique_ptr<Backend> backend_;
  std::vector<void*> memory_;
};

}  // namespace baleen::kernels::testing
