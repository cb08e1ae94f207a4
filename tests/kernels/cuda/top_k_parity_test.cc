#include <bit>
#include <functional>
#include <limits>
#include <ostream>

#include "kernels/cuda/parity.h"

namespace baleen::kernels {
namespace {

using testing::GpuTest;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

float FromBits(uint32_t bits) { return std::bit_cast<float>(bits); }

struct Rows {
  int k;
  int64_t stride;
  std::vector<int32_t> positions;
  std::vector<float> logits;  // [rows, stride]

  int count() const { return static_cast<int>(positions.size()); }
};

// What can be asked of a selection: the score of column i, drawn from `rng`.
struct Distribution {
  const char* name;
  std::function<float(std::mt19937& rng, int i)> score;

  friend std::ostream& operator<<(std::ostream& os, const Distribution& d) { return os << d.name; }
};

const Distribution kDistributions[] = {
    {"Normal", [](std::mt19937& rng, int) { return std::normal_distribution<float>()(rng); }},
    {"AllEqual", [](std::mt19937&, int) { return 1.5f; }},
    {"AllZero", [](std::mt19937&, int) { return 0.0f; }},
    {"TwoValues", [](std::mt19937& rng, int) { return rng() % 2 != 0 ? 3.0f : -3.0f; }},
    {"RareLargeValue", [](std::mt19937& rng, int) { return rng() % 500 == 0 ? 2.0f : 1.0f; }},
    {"FewLevels", [](std::mt19937& rng, int) { return float(int(rng() % 7)) - 3; }},
    {"TwoZeros", [](std::mt19937& rng, int) { return rng() % 2 != 0 ? 0.0f : -0.0f; }},
    {"OneOctave", [](std::mt19937& rng, int) { return FromBits(0x3F800000 + rng() % 0x800000); }},
    {"LastBits", [](std::mt19937& rng, int) { return FromBits(0x40490000 + rng() % 900); }},
    {"LastBitsBelowZero",
     [](std::mt19937& rng, int) { return FromBits(0xC0490000 + rng() % 900); }},
    {"Denormal",
     [](std::mt19937& rng, int) { return FromBits((rng() & 0x80000000) | rng() % 5000); }},
    {"AnyBits", [](std::mt19937& rng, int) { return FromBits(rng()); }},
    {"MostlyNan", [](std::mt19937& rng,
                     int) { return FromBits(rng() % 100 == 0 ? rng() : 0x7FC00000 | rng()); }},
    {"Infinities",
     [](std::mt19937& rng, int) {
       return rng() % 3 == 0 ? 1.0f : rng() % 2 ? kInfinity : -kInfinity;
     }},
    {"Ascending", [](std::mt19937&, int i) { return float(i) - 1000; }},
    {"Descending", [](std::mt19937&, int i) { return 1000 - float(i); }},
};

class TopKParity : public GpuTest {
 protected:
  // Columns that must not be read are NaN or larger than all others.
  static Rows MakeRows(const Distribution& d, int k, int64_t stride,
                       const std::vector<int32_t>& positions, uint32_t seed) {
    Rows rows = {k, stride, positions, std::vector<float>(positions.size() * stride)};
    std::mt19937 rng(seed);
    for (size_t r = 0; r < positions.size(); ++r) {
      for (int64_t i = 0; i < stride; ++i) {
        rows.logits[r * stride + i] =
            i > positions[r] ? (i % 2 != 0 ? kInfinity : NAN) : d.score(rng, static_cast<int>(i));
      }
    }
    return rows;
  }

  std::vector<int32_t> Cpu(const Rows& rows) {
    std::vector<int32_t> indices(size_t(rows.count()) * rows.k, -7);
    cpu_->TopK({rows.logits.data(), rows.stride, rows.positions.data(), rows.count(), rows.k,
                indices.data()});
    return indices;
  }
  // What lies behind the result stays.
  std::vector<int32_t> Gpu(const Rows& rows) {
    const size_t count = size_t(rows.count()) * rows.k;
    auto* indices = Upload(std::vector<int32_t>(count + kBehind, -7));
    gpu_->TopK(
        {Upload(rows.logits), rows.stride, Upload(rows.positions), rows.count(), rows.k, indices});
    std::vector<int32_t> got = Download(indices, count + kBehind);
    EXPECT_EQ(std::vector<int32_t>(got.begin() + count, got.end()),
              std::vector<int32_t>(kBehind, -7));
    got.resize(count);
    return got;
  }

  void ExpectParity(const Rows& rows) {
    const std::vector<int32_t> want = Cpu(rows);
    const std::vector<int32_t> got = Gpu(rows);
    for (int r = 0; r < rows.count(); ++r) {
      for (int i = 0; i < rows.k; ++i) {
        ASSERT_EQ(got[size_t(r) * rows.k + i], want[size_t(r) * rows.k + i])
            << "row " << r << " with " << rows.positions[r] + 1 << " of " << rows.stride
            << " columns, index " << i << " of " << rows.k;
      }
    }
  }

  // Row lengths around all that the kernel treats apart.
  static std::vector<int32_t> Lengths(int rows, int k, int64_t stride, uint32_t seed) {
    std::vector<int32_t> positions;
    for (int64_t p : {int64_t{0}, int64_t{k} - 2, int64_t{k} - 1, int64_t{k}, int64_t{k} + 1,
                      stride - 1, stride - 2, stride - 5, int64_t{4087}, int64_t{4088}}) {
      if (p >= 0 && p < stride && int(positions.size()) < rows) positions.push_back(int32_t(p));
    }
    std::mt19937 rng(seed);
    while (int(positions.size()) < rows) positions.push_back(int32_t(rng() % stride));
    return positions;
  }

 private:
  static constexpr size_t kBehind = 16;
};

class TopKDistributions : public TopKParity, public ::testing::WithParamInterface<Distribution> {};
INSTANTIATE_TEST_SUITE_P(All, TopKDistributions, ::testing::ValuesIn(kDistributions),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(TopKDistributions, OneLongRow) {
  ExpectParity(MakeRows(GetParam(), 2048, 163840, {163839}, 1));
}

TEST_P(TopKDistributions, RowsOfV32) {
  ExpectParity(MakeRows(GetParam(), 2048, 9001, Lengths(17, 2048, 9001, 2), 3));
}

TEST_P(TopKDistributions, RowsOfTheTinyModel) {
  ExpectParity(MakeRows(GetParam(), 256, 1023, Lengths(41, 256, 1023, 4), 5));
}

struct Shape {
  int rows;
  int k;
  int64_t stride;

  friend std::ostream& operator<<(std::ostream& os, const Shape& s) {
    return os << s.rows << "x" << s.stride << "k" << s.k;
  }
};

class TopKShapes : public TopKParity, public ::testing::WithParamInterface<Shape> {};
INSTANTIATE_TEST_SUITE_P(
    Geometries, TopKShapes,
    ::testing::Values(Shape{1, 2048, 2049}, Shape{1, 2048, 4096}, Shape{1, 2048, 32768},
                      Shape{1, 2048, 131072}, Shape{2, 2048, 131075}, Shape{9, 2048, 163840},
                      Shape{20, 2048, 100001}, Shape{40, 2048, 60003}, Shape{150, 2048, 25002},
                      Shape{300, 2048, 4097}, Shape{300, 256, 700}, Shape{33, 256, 16384},
                      Shape{5, 1, 5000}, Shape{5, 4000, 70000}, Shape{3, 7, 8}, Shape{3, 2048, 5}));

TEST_P(TopKShapes, EqualTheCpu) {
  const Shape s = GetParam();
  for (uint32_t seed : {7u, 8u}) {
    SCOPED_TRACE(seed);
    const std::vector<int32_t> positions = Lengths(s.rows, s.k, s.stride, seed);
    const Distribution& d = kDistributions[seed == 7 ? 0 : 5];
    ExpectParity(MakeRows(d, s.k, s.stride, positions, seed));
  }
}

TEST_F(TopKParity, ARowDoesNotDependOnItsBatchOrStride) {
  const Rows all = MakeRows(kDistributions[5], 2048, 30001, Lengths(150, 2048, 30001, 9), 10);
  const std::vector<int32_t> batch = Gpu(all);
  EXPECT_EQ(Gpu(all), batch);
  for (int r : {2, 5, 77, 149}) {
    const int32_t position = all.positions[r];
    const float* row = &all.logits[size_t(r) * all.stride];
    const Rows alone = {all.k, position + 1, {position}, {row, row + position + 1}};
    EXPECT_EQ(Gpu(alone), std::vector<int32_t>(batch.begin() + size_t(r) * all.k,
                                               batch.begin() + size_t(r + 1) * all.k))
        << "row " << r;
  }
}

TEST_F(TopKParity, NoRowsIsLegal) { EXPECT_TRUE(Gpu({2048, 4096, {}, {}}).empty()); }

}  // namespace
}  // namespace baleen::kernels
