#include "bench/device_rates.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>
#include <vector>

#include "model/weights.h"

namespace baleen {
namespace {

constexpr int kRows = 1 << 16;
constexpr int kRounds = 15;
constexpr int kRepeats = 5;

// Random bytes: zeros may move faster.
void FillWithNoise(kernels::Backend& backend, const model::DeviceBlock& block) {
  std::mt19937_64 rng(1);
  std::vector<uint64_t> noise(1 << 20);
  for (uint64_t& v : noise) v = rng();
  const size_t bytes = noise.size() * sizeof(uint64_t);
  for (size_t at = 0; at < block.bytes(); at += bytes) {
    backend.CopyIn(block.data() + at, noise.data(), std::min(bytes, block.bytes() - at));
  }
  backend.Synchronize();
}

}  // namespace

double MeasureCopy(kernels::Backend& backend) {
  using std::chrono::steady_clock;
  const size_t bytes = size_t{backend.host_memory() ? 64u << 20 : 2u << 30};
  const model::DeviceBlock from(backend, bytes), to(backend, bytes);
  const model::DeviceBlock index(backend, kRows * sizeof(int32_t));
  if (from.data() == nullptr || to.data() == nullptr || index.data() == nullptr) return 1;
  FillWithNoise(backend, from);
  std::vector<int32_t> all(kRows);
  std::iota(all.begin(), all.end(), 0);
  backend.CopyIn(index.data(), all.data(), all.size() * sizeof(int32_t));
  const int cols = static_cast<int>(bytes / kRows / 2);
  const kernels::GatherRowsParams copy = {.x = {from.data(), DType::kBf16, kRows, cols, cols},
                                          .index = reinterpret_cast<const int32_t*>(index.data()),
                                          .out = {to.data(), DType::kBf16, kRows, cols, cols}};
  std::vector<double> seconds;
  for (int round = 0; round <= kRounds; ++round) {  // the first warms up
    const auto begin = steady_clock::now();
    for (int i = 0; i < kRepeats; ++i) backend.GatherRows(copy);
    backend.Synchronize();
    const std::chrono::duration<double> took = steady_clock::now() - begin;
    if (round > 0) seconds.push_back(took.count() / kRepeats);
  }
  std::nth_element(seconds.begin(), seconds.begin() + kRounds / 2, seconds.end());
  return 2.0 * double(bytes) / seconds[kRounds / 2];
}

}  // namespace baleen
