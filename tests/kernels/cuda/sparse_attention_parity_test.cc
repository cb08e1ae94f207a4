#include <ostream>

#include "kernels/cuda/parity.h"

// The GPU rounds the weights p of the softmax to bf16 before p . c (relative error 2^-9), and
// sums them unrounded; scores are f32 on both sides, where they differ by less than 2^-9 in the
// tests here. So out is within 2^-8 * sum_s p[s] |c[s]| of the CPU's, and each side rounds it once.
namespace baleen::kernels {
namespace {

using testing::GpuTest;
using testing::RandomFloats;
using testing::RowOf;
using testing::TestCache;
using testing::TestMatrix;

constexpr int kLora = 512;
constexpr int kRope = 64;
constexpr int kRopeStride = 192;  // q_rope is a column range of q: [nope 128 | rope 64] a head
constexpr int kRopeOffset = 128;
constexpr int kPadding = 24;  // unused columns after each row
constexpr float kScale = 0.1352337788608801f;

// The rows of one op, on the host. q_rope is the view past kRopeOffset of `q_heads`.
struct Rows {
  int heads;
  TestMatrix q;
  TestMatrix q_heads;
  int topk = 0;
  std::vector<int32_t> indices = {};  // [rows, topk], or empty: all keys
  float scale = kScale;

  int count() const { return q.rows(); }
  Rows Only(int r) const {
    Rows row = {heads, RowOf(q, r), RowOf(q_heads, r), topk, {}, scale};
    if (!indices.empty()) {
      row.indices.assign(indices.begin() + size_t(r) * topk,
                         indices.begin() + size_t(r + 1) * topk);
    }
    return row;
  }
};

Rows RandomRows(int rows, int heads, uint32_t seed) {
  return {heads, TestMatrix::Random(rows, heads * kLora, seed, DType::kBf16, kPadding),
          TestMatrix::Random(rows, heads * kRopeStride, seed + 1, DType::kBf16, kPadding)};
}

void Scale(TestMatrix& m, float factor) {
  for (int r = 0; r < m.rows(); ++r) {
    for (int c = 0; c < m.cols(); ++c) m.Set(r, c, float(m.At(r, c)) * factor);
  }
}

Matrix RopeView(Matrix q_heads) {
  q_heads.data = q_heads.row<uint16_t>(0) + kRopeOffset;
  q_heads.cols -= kRopeOffset;
  return q_heads;
}

// `count` of the positions 0..last, ascending, filled up with -1 to topk.
void AppendList(std::vector<int32_t>& indices, int last, int count, int topk, std::mt19937& rng) {
  std::vector<int32_t> all(last + 1), some;
  std::iota(all.begin(), all.end(), 0);
  std::sample(all.begin(), all.end(), std::back_inserter(some), count, rng);
  some.resize(topk, -1);
  indices.insert(indices.end(), some.begin(), some.end());
}

// What topk chooses: all keys while there are at most that many.
void SelectKeys(Rows& rows, const TestCache& cache, int topk, uint32_t seed) {
  std::mt19937 rng(seed);
  rows.topk = topk;
  rows.indices.clear();
  for (int r = 0; r < rows.count(); ++r) {
    const int last = cache.positions()[r];
    AppendList(rows.indices, last, std::min(last + 1, topk), topk, rng);
  }
}

class SparseAttention : public GpuTest {
 protected:
  void UseLimits(int rows) { ReserveScratch({.rows = rows}); }

  static SparseAttentionParams Params(const Rows& rows, const Matrix& q, const Matrix& q_heads,
                                      const LayerCache& cache, const RowMap& map,
                                      const Matrix& out) {
    return {.q = q,
            .q_rope = RopeView(q_heads),
            .rope_head_stride = kRopeStride,
            .heads = rows.heads,
            .scale = rows.scale,
            .indices = nullptr,
            .topk = rows.topk,
            .cache = cache,
            .rows = map,
            .out = out};
  }

  TestMatrix Want(const Rows& rows, const TestCache& cache) {
    TestMatrix out(rows.count(), rows.heads * kLora, DType::kBf16, kPadding);
    SparseAttentionParams p =
        Params(rows, rows.q.view(), rows.q_heads.view(), cache.cache(), cache.rows(), out.view());
    if (!rows.indices.empty()) p.indices = rows.indices.data();
    cpu_->SparseAttention(p);
    return out;
  }

  // `map` is on the host; its rows are those of `rows`.
  TestMatrix Run(const Rows& rows, const LayerCache& device_cache, const RowMap& map,
                 int sequences) {
    TestMatrix out(rows.count(), rows.heads * kLora, DType::kBf16, kPadding);
    const Matrix device_out = Upload(out);
    SparseAttentionParams p = Params(rows, Upload(rows.q), Upload(rows.q_heads), device_cache,
                                     Upload(map, sequences), device_out);
    if (!rows.indices.empty()) p.indices = Upload(rows.indices);
    gpu_->SparseAttention(p);
    Download(device_out, out);
    return out;
  }
  TestMatrix Run(const Rows& rows, const TestCache& cache, int sequences = 1) {
    return Run(rows, Upload(cache), cache.rows(), sequences);
  }

  // The largest |latent| of each column among the keys a row may attend to.
  static std::vector<double> LargestLatents(const TestCache& cache, int sequence, int last) {
    std::vector<double> largest(kLora, 0.0);
    for (int s = 0; s <= last; ++s) {
      for (int d = 0; d < kLora; ++d) {
        largest[d] = std::max(largest[d], std::fabs(cache.Latent(sequence, s, d)));
      }
    }
    return largest;
  }

  // Each element within the bound, with the largest |c| for the mean of |c|; all together much
  // closer, as roundings are independent: a key lost or taken twice would show. Between the rows
  // nothing is written.
  void ExpectClose(const TestMatrix& got, const TestMatrix& want, const TestCache& cache) {
    ASSERT_EQ(got.rows(), want.rows());
    double squares = 0, error_squares = 0;
    for (int r = 0; r < want.rows(); ++r) {
      const std::vector<double> largest =
          LargestLatents(cache, cache.rows().sequences[r], cache.positions()[r]);
      for (int c = 0; c < want.cols(); ++c) {
        const double error = got.At(r, c) - want.At(r, c);
        const double bound = std::fabs(want.At(r, c)) / 128 + largest[c % kLora] / 256;
        ASSERT_LE(std::fabs(error), bound)
            << "row " << r << " head " << c / kLora << " element " << c % kLora << ": got "
            << got.At(r, c) << ", want " << want.At(r, c);
        squares += want.At(r, c) * want.At(r, c);
        error_squares += error * error;
      }
    }
    EXPECT_LE(std::sqrt(error_squares), std::sqrt(squares) / 256);
    ExpectPaddingUntouched(got);
  }

  static void ExpectPaddingUntouched(const TestMatrix& out) {
    for (int r = 0; r < out.rows(); ++r) {
      for (int c = out.cols(); c < out.view().stride; ++c) {
        ASSERT_EQ(out.view().row<uint16_t>(r)[c], 0xFFFF) << "row " << r << " column " << c;
      }
    }
  }

  void ExpectSameRow(const TestMatrix& all, int r, const TestMatrix& alone) {
    EXPECT_TRUE(RowOf(all, r).SameBytes(alone)) << "row " << r;
  }
};

struct Shape {
  const char* name;
  int heads;
  int topk;        // 0: no list
  int limit_rows;  // decides how many CTAs share a row
  std::vector<int> positions;

  friend std::ostream& operator<<(std::ostream& os, const Shape& s) { return os << s.name; }
};

class SparseAttentionShapes : public SparseAttention,
                              public ::testing::WithParamInterface<Shape> {};

TEST_P(SparseAttentionShapes, MatchesTheCpu) {
  const Shape& shape = GetParam();
  const int length = *std::max_element(shape.positions.begin(), shape.positions.end()) + 1;
  UseLimits(shape.limit_rows);
  for (uint32_t seed : {1, 100}) {
    TestCache cache(Numerics::kFp8, {length, 5});
    cache.Fill(*cpu_, 0, length, seed);
    std::vector<std::pair<int, int>> at;
    for (int position : shape.positions) at.emplace_back(0, position);
    cache.SetRows(at);
    Rows rows = RandomRows(int(at.size()), shape.heads, seed + 10);
    if (shape.topk > 0) SelectKeys(rows, cache, shape.topk, seed);
    const TestMatrix got = Run(rows, cache, 2);
    ExpectClose(got, Want(rows, cache), cache);
    EXPECT_TRUE(got.SameBytes(Run(rows, cache, 2))) << "two runs differ";
  }
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, SparseAttentionShapes,
    ::testing::Values(Shape{"V32DecodeList", 128, 2048, 64, {2999, 2048, 2047}},
                      Shape{"V32DecodeAllKeys", 128, 0, 64, {2047, 64, 63, 1, 0}},
                      Shape{"V32DecodeFourSplits", 128, 2048, 300, {2500}},
                      Shape{"V32DecodeTwoSplits", 128, 2048, 1024, {2500}},
                      Shape{"V32Prefill", 128, 2048, 8192, {2700, 2047, 700, 65, 0}},
                      Shape{"TinyDecodeList", 4, 256, 8, {900, 256, 255, 128, 64, 31, 0}},
                      Shape{"TinyDecodeAllKeys", 4, 0, 8, {255, 200, 0}},
                      Shape{"TinyPrefill", 4, 256, 8192, {600, 257, 256, 255, 130, 2, 1, 0}},
                      Shape{"LongAllKeys", 4, 0, 8, {20000, 4095, 4096}},
                      Shape{"LongAllKeysPrefill", 4, 0, 8192, {9001}},
                      Shape{"OneHead", 1, 100, 16, {300, 99}},
                      Shape{"SixtyFourHeads", 64, 130, 16, {300, 129}},
                      Shape{"SixtyFiveHeads", 65, 200, 16, {500, 77}},
                      Shape{"AlmostAllHeads", 127, 64, 2000, {500, 77}},
                      Shape{"ListOfOne", 16, 1, 16, {70, 0}}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_F(SparseAttention, NoRowsWriteNothing) {
  UseLimits(8);
  TestCache cache(Numerics::kFp8, {64});
  cache.Fill(*cpu_, 0, 64, 1);
  cache.SetRows({});
  EXPECT_EQ(Run(RandomRows(0, 128, 1), cache).rows(), 0);
}

TEST_F(SparseAttention, RowsWithoutKeysAreZero) {
  TestCache cache(Numerics::kFp8, {300});
  cache.Fill(*cpu_, 0, 300, 1);
  for (int limit : {8, 8192}) {
    UseLimits(limit);
    for (bool list : {true, false}) {
      cache.SetRows({{0, list ? 299 : -1}, {0, 200}, {0, -1}});
      Rows rows = RandomRows(3, 65, 3);
      if (list) {
        std::mt19937 rng(1);
        rows.topk = 150;
        AppendList(rows.indices, 0, 0, 150, rng);
        AppendList(rows.indices, 200, 150, 150, rng);
        AppendList(rows.indices, 0, 0, 150, rng);
      }
      const TestMatrix got = Run(rows, cache);
      for (int c = 0; c < got.cols(); ++c) {
        ASSERT_EQ(got.At(0, c), 0) << c;
        ASSERT_EQ(got.At(2, c), 0) << c;
      }
      ExpectSameRow(got, 0, RowOf(Want(rows, cache), 0));
    }
  }
}

TEST_F(SparseAttention, ListsShorterThanTopKEndAtThePadding) {
  TestCache cache(Numerics::kFp8, {2000});
  cache.Fill(*cpu_, 0, 2000, 1);
  const std::vector<int> counts = {1, 63, 64, 65, 128, 511, 513, 1000};
  cache.SetRows(std::vector<std::pair<int, int>>(counts.size(), {0, 1999}));
  Rows rows = RandomRows(int(counts.size()), 16, 5);
  rows.topk = 1024;
  std::mt19937 rng(2);
  for (int count : counts) AppendList(rows.indices, 1999, count, rows.topk, rng);
  for (int limit : {8, 512, 1000, 4096}) {
    UseLimits(limit);
    ExpectClose(Run(rows, cache), Want(rows, cache), cache);
  }
}

TEST_F(SparseAttention, ReadsThePagesOfTheRowsOwnSequence) {
  UseLimits(16);
  TestCache cache(Numerics::kFp8, {400, 90, 700}, /*layer=*/2);
  for (int s : {0, 1, 2}) cache.Fill(*cpu_, s, std::vector<int>{400, 90, 700}[s], 10 * s + 1);
  cache.SetRows({{2, 699}, {0, 399}, {1, 89}, {2, 10}, {1, 0}});
  Rows rows = RandomRows(5, 128, 7);
  SelectKeys(rows, cache, 256, 3);
  ExpectClose(Run(rows, cache, 3), Want(rows, cache), cache);
}

TEST_F(SparseAttention, ARowDoesNotDependOnItsBatch) {
  TestCache cache(Numerics::kFp8, {1500});
  cache.Fill(*cpu_, 0, 1500, 1);
  std::vector<std::pair<int, int>> at;
  for (int r = 0; r < 150; ++r) at.emplace_back(0, (r * 389) % 1500);
  const Rows dense = RandomRows(150, 128, 9);
  for (int limit : {150, 400, 1024, 8192}) {
    UseLimits(limit);
    for (bool list : {true, false}) {
      cache.SetRows(at);
      Rows rows = dense;
      if (list) SelectKeys(rows, cache, 512, 4);
      const LayerCache device_cache = Upload(cache);
      const TestMatrix all = Run(rows, device_cache, cache.rows(), 1);
      for (int r : {0, 77, 149}) {
        cache.SetRows({at[r]});
        ExpectSameRow(all, r, Run(rows.Only(r), device_cache, cache.rows(), 1));
      }
    }
  }
}

// A step of short sequences passes no list, and a page table as wide as its longest sequence.
TEST_F(SparseAttention, AListOfAllKeysOrANarrowPageTableChangesNoBit) {
  TestCache cache(Numerics::kFp8, {3000});
  cache.Fill(*cpu_, 0, 3000, 1);
  for (int limit : {8, 400, 1024, 8192}) {
    UseLimits(limit);
    for (int last : {0, 63, 64, 150, 511, 512, 1000, 2047}) {
      cache.SetRows({{0, last}});
      Rows rows = RandomRows(1, 65, last + 1);
      const LayerCache device_cache = Upload(cache);
      const TestMatrix dense = Run(rows, device_cache, cache.rows(), 1);
      RowMap narrow = cache.rows();
      narrow.page_table_stride = int(PagesFor(last + 1));
      EXPECT_TRUE(dense.SameBytes(Run(rows, device_cache, narrow, 1))) << last << " narrow";
      SelectKeys(rows, cache, 2048, 1);
      EXPECT_TRUE(dense.SameBytes(Run(rows, device_cache, narrow, 1))) << last << " list";
    }
  }
}

// All weights are 1, so nothing but f32 sums and the result is rounded. Scales in the cache go from
// 2^-22 to beyond 2^8.
TEST_F(SparseAttention, TakesMeansOfHugeAndTinyValues) {
  const int length = 1000;
  TestCache cache(Numerics::kFp8, {length});
  TestMatrix latents = TestMatrix::Random(length, kLora, 1, DType::kBf16);
  for (int r = 0; r < length; ++r) {
    for (int c = 0; c < kLora; ++c) {
      latents.Set(r, c, std::ldexp(float(latents.At(r, c)), (r + c / 128) % 41 - 20));
    }
  }
  cache.SetRows(0, 0, length);
  cpu_->StoreLatent({latents.view(), TestMatrix::Random(length, kRope, 2, DType::kBf16).view(),
                     cache.cache(), cache.rows()});
  cache.SetRows({{0, length - 1}, {0, 6}, {0, 100}});
  Rows rows = RandomRows(3, 20, 3);
  Scale(rows.q, 0);
  Scale(rows.q_heads, 0);
  for (int limit : {8, 8192}) {
    UseLimits(limit);
    const TestMatrix got = Run(rows, cache), want = Want(rows, cache);
    for (int r = 0; r < 3; ++r) {
      const std::vector<double> largest = LargestLatents(cache, 0, cache.positions()[r]);
      for (int c = 0; c < got.cols(); ++c) {
        ASSERT_NEAR(got.At(r, c), want.At(r, c),
                    std::fabs(want.At(r, c)) / 128 + 1e-5 * largest[c % kLora])
            << "row " << r << " column " << c;
      }
    }
  }
}

// Each row attends to one key, whose value comes out as it is in the cache: all e4m3 numbers,
// subnormals included, times scales of both ends.
TEST_F(SparseAttention, DecodesEveryE4m3Number) {
  const int length = 256;
  TestCache cache(Numerics::kFp8, {length});
  cache.Fill(*cpu_, 0, length, 1);
  cache.SetRows(0, 0, length);
  Rows rows = RandomRows(length, 2, 3);
  rows.topk = 1;
  for (int s = 0; s < length; ++s) {
    std::byte* row = cache.Page(0, s) + s % kPageTokens * cache.cache().layout.LatentRowBytes();
    for (int d = 0; d < kLora; ++d) {
      const int code = (s + d) % 256;
      row[d] = std::byte(code % 128 == 127 ? 0 : code);  // NaN apart
    }
    for (int g = 0; g < kLora / 128; ++g) {
      const float scale = std::ldexp(1.0f, (s + g) % 35 - 22);
      std::memcpy(row + kLora + g * sizeof(float), &scale, sizeof(scale));
    }
    rows.indices.push_back(s);
  }
  Scale(rows.q, 0);
  Scale(rows.q_heads, 0);
  UseLimits(length);
  const TestMatrix got = Run(rows, cache);
  for (int r = 0; r < length; ++r) {
    for (int c = 0; c < got.cols(); ++c) {
      ASSERT_EQ(got.At(r, c), cache.Latent(0, r, c % kLora)) << "key " << r << " column " << c;
    }
  }
}

// Whatever the weights are, the mean of equal values is the value, which bf16 holds.
TEST_F(SparseAttention, EqualKeysGiveTheKeyItself) {
  const int length = 700;
  TestCache cache(Numerics::kFp8, {length});
  const TestMatrix latent = TestMatrix::Random(1, kLora, 1, DType::kBf16);
  const TestMatrix rope = TestMatrix::Random(1, kRope, 2, DType::kBf16);
  Matrix same_latent = latent.view(), same_rope = rope.view();
  same_latent.rows = same_rope.rows = length;
  same_latent.stride = same_rope.stride = 0;
  cache.SetRows(0, 0, length);
  cpu_->StoreLatent({same_latent, same_rope, cache.cache(), cache.rows()});
  cache.SetRows({{0, 699}, {0, 64}, {0, 5}});
  const Rows rows = RandomRows(3, 70, 3);
  for (int limit : {8, 8192}) {
    UseLimits(limit);
    const TestMatrix got = Run(rows, cache);
    for (int r = 0; r < 3; ++r) {
      for (int c = 0; c < got.cols(); ++c) {
        ASSERT_EQ(got.At(r, c), cache.Latent(0, 0, c % kLora)) << "row " << r << " column " << c;
      }
    }
  }
}

// Scores of some hundreds: most weights vanish, earlier sums shrink to nothing.
TEST_F(SparseAttention, SurvivesLargeScores) {
  TestCache cache(Numerics::kFp8, {1200});
  cache.Fill(*cpu_, 0, 1200, 1);
  cache.SetRows({{0, 1199}, {0, 500}, {0, 70}});
  Rows rows = RandomRows(3, 128, 3);
  Scale(rows.q, 30);
  Scale(rows.q_heads, 30);
  for (int limit : {8, 8192}) {
    UseLimits(limit);
    ExpectClose(Run(rows, cache), Want(rows, cache), cache);
  }
}

TEST_F(SparseAttention, NanStaysInItsHead) {
  TestCache cache(Numerics::kFp8, {600});
  cache.Fill(*cpu_, 0, 600, 1);
  cache.SetRows({{0, 599}});
  Rows rows = RandomRows(1, 128, 3);
  const TestMatrix clean = Want(rows, cache);
  rows.q.Set(0, 5 * kLora + 100, NAN);
  rows.q_heads.Set(0, 90 * kRopeStride + kRopeOffset + 63, NAN);
  for (int limit : {8, 8192}) {
    UseLimits(limit);
    const TestMatrix got = Run(rows, cache);
    for (int c = 0; c < got.cols(); ++c) {
      const int head = c / kLora;
      ASSERT_EQ(std::isnan(got.At(0, c)), head == 5 || head == 90) << "column " << c;
      if (head == 5 || head == 90) continue;
      ASSERT_NEAR(got.At(0, c), clean.At(0, c), std::fabs(clean.At(0, c)) / 128 + 5.0 / 256);
    }
  }
}

}  // namespace
}  // namespace baleen::kernels
