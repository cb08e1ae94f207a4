#include <bit>
#include <ostream>

#include "kernels/cuda/parity.h"

namespace baleen::kernels {
namespace {

using testing::GpuTest;
using testing::RandomFloats;
using testing::TestCache;
using testing::TestMatrix;
using testing::TestQuantized;

constexpr int kDim = 128;

// The operands of an op's rows, on the host.
struct Queries {
  int heads;
  std::vector<uint8_t> q8;     // [rows, heads * kDim]
  std::vector<float> weights;  // [rows, heads]

  int rows() const { return static_cast<int>(weights.size()) / heads; }
  Queries Only(int row) const {
    const auto q = q8.begin() + size_t(row) * heads * kDim;
    const auto w = weights.begin() + size_t(row) * heads;
    return {heads, {q, q + heads * kDim}, {w, w + heads}};
  }
};

// Small integers: every product and sum is exact on both sides, in any order.
Queries IntegerQueries(int rows, int heads, uint32_t seed) {
  Queries queries = {heads, std::vector<uint8_t>(size_t(rows) * heads * kDim),
                     std::vector<float>(size_t(rows) * heads)};
  std::mt19937 rng(seed);
  for (uint8_t& q : queries.q8) q = F32ToE4m3(float(int(rng() % 5)) - 2);
  for (float& w : queries.weights) w = float(int(rng() % 9)) - 4;
  return queries;
}

// As a model makes them; elements of order `magnitude`.
Queries NormalQueries(Backend& cpu, int rows, int heads, uint32_t seed, float magnitude) {
  TestMatrix q(rows, heads * kDim, DType::kBf16);
  const std::vector<float> values = RandomFloats(size_t(rows) * heads * kDim, seed);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < heads * kDim; ++c) {
      q.Set(r, c, magnitude * values[size_t(r) * heads * kDim + c]);
    }
  }
  const TestQuantized q8(rows, heads * kDim);
  Queries queries = {heads, {}, RandomFloats(size_t(rows) * heads, seed + 1)};
  cpu.Quantize({q.view(), q8.view()});
  cpu.ScaleIndexWeights({queries.weights.data(), rows, heads, q8.view().scales, 0.01f});
  queries.q8.assign(q8.view().data, q8.view().data + size_t(rows) * heads * kDim);
  return queries;
}

// The key's bytes and its scale.
struct KeySlot {
  uint8_t* key;
  std::byte* scale;
};
KeySlot SlotOf(const TestCache& cache, int sequence, int position) {
  const KvLayout& layout = cache.cache().layout;
  std::byte* page = cache.Page(sequence, position);
  const int token = position % kPageTokens;
  return {reinterpret_cast<uint8_t*>(page + layout.IndexKeysOffset()) + token * kDim,
          page + layout.IndexScalesOffset() + token * sizeof(float)};
}

// Index keys for the first `length` positions; what else is in the pages stays NaN.
void FillIntegerKeys(const TestCache& cache, int sequence, int length, uint32_t seed) {
  std::mt19937 rng(seed);
  for (int p = 0; p < length; ++p) {
    const KeySlot slot = SlotOf(cache, sequence, p);
    for (int d = 0; d < kDim; ++d) slot.key[d] = F32ToE4m3(float(int(rng() % 5)) - 2);
    const float scale = std::ldexp(1.0f, int(rng() % 5) - 3);
    std::memcpy(slot.scale, &scale, sizeof(scale));
  }
}
void FillNormalKeys(Backend& cpu, TestCache& cache, int sequence, int length, uint32_t seed) {
  cache.SetRows(sequence, 0, length);
  cpu.StoreIndexKeys(
      {TestMatrix::Random(length, kDim, seed, DType::kBf16).view(), cache.cache(), cache.rows()});
}

class IndexerParity : public GpuTest {
 protected:
  std::vector<float> Cpu(const Queries& queries, const LayerCache& cache, const RowMap& rows,
                         int64_t stride) {
    std::vector<float> logits(size_t(rows.rows) * stride);
    std::memset(logits.data(), 0xFF, logits.size() * sizeof(float));
    Quantized q8 = {const_cast<uint8_t*>(queries.q8.data()), &unused_scale_, queries.rows(),
                    queries.heads * kDim};
    cpu_->IndexerLogits(
        Params(q8, queries.weights.data(), queries.heads, cache, rows, logits.data(), stride));
    return logits;
  }

  // `cache` and `rows` are on the device; what lies behind the logits stays.
  std::vector<float> Gpu(const Queries& queries, const LayerCache& cache, const RowMap& rows,
                         int64_t stride) {
    constexpr size_t kBehind = 64;
    const size_t count = size_t(rows.rows) * stride;
    auto* logits = Poisoned<float>(count + kBehind);
    const Quantized q8 = {Upload(queries.q8), nullptr, queries.rows(), queries.heads * kDim};
    gpu_->IndexerLogits(
        Params(q8, Upload(queries.weights), queries.heads, cache, rows, logits, stride));
    std::vector<float> got = Download(logits, count + kBehind);
    for (size_t i = count; i < got.size(); ++i) {
      EXPECT_EQ(std::bit_cast<uint32_t>(got[i]), 0xFFFFFFFFu) << i - count << " behind the logits";
    }
    got.resize(count);
    return got;
  }

  // Equal to the last bit, but for the sign of zero; columns above the position untouched.
  static void ExpectEqual(const std::vector<float>& got, const std::vector<float>& want,
                          int64_t stride) {
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      if (got[i] == want[i]) continue;
      ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(want[i]))
          << "row " << i / stride << " column " << i % stride << ": got " << got[i] << ", want "
          << want[i];
    }
  }

  static IndexerLogitsParams Params(const Quantized& q8, const float* weights, int heads,
                                    const LayerCache& cache, const RowMap& rows, float* logits,
                                    int64_t stride) {
    return {.q = {},
            .q8 = q8,
            .weights = weights,
            .heads = heads,
            .cache = cache,
            .rows = rows,
            .logits = logits,
            .logits_stride = stride};
  }

 private:
  float unused_scale_ = 1;
};

// The rows of a step: pairs of sequence and position. The sequences have 700, 65, 1 and 333 keys.
struct Step {
  const char* name;
  std::vector<std::pair<int, int>> rows;

  friend std::ostream& operator<<(std::ostream& os, const Step& s) { return os << s.name; }
};
const std::vector<int> kLengths = {700, 65, 1, 333};

std::vector<std::pair<int, int>> Positions(int sequence, int begin, int end) {
  std::vector<std::pair<int, int>> rows;
  for (int p = begin; p < end; ++p) rows.emplace_back(sequence, p);
  return rows;
}
// Rows in no order at all, of every sequence.
std::vector<std::pair<int, int>> Shuffled(int count) {
  std::mt19937 rng(31);
  std::vector<std::pair<int, int>> rows;
  for (int i = 0; i < count; ++i) {
    const int sequence = static_cast<int>(rng() % kLengths.size());
    rows.emplace_back(sequence, int(rng() % kLengths[sequence]));
  }
  return rows;
}
// A prompt's chunk, then rows that decode or verify.
std::vector<std::pair<int, int>> Mixed() {
  std::vector<std::pair<int, int>> rows = Positions(0, 0, 131);
  for (const auto& row :
       {std::pair{3, 332}, {1, 63}, {1, 64}, {2, 0}, {0, 697}, {0, 698}, {0, 699}})
    rows.push_back(row);
  return rows;
}

const Step kSteps[] = {
    {"OneRow", {{0, 699}}},
    {"OneKey", {{2, 0}}},
    {"OnePage", {{1, 63}}},
    {"Pairs", {{0, 698}, {0, 699}, {1, 63}, {1, 64}, {3, 100}, {3, 101}}},
    {"PairsAcrossTiles", {{2, 0}, {0, 698}, {0, 699}, {1, 63}, {1, 64}}},
    {"FourOfASequence", {{3, 126}, {3, 127}, {3, 128}, {3, 129}, {0, 64}}},
    {"FewShuffled", Shuffled(37)},
    {"ManyShuffled", Shuffled(97)},
    {"Chunk", Positions(0, 500, 700)},
    {"FirstChunk", Positions(0, 0, 257)},
    {"Mixed", Mixed()},
};

class IndexerSteps : public IndexerParity,
                     public ::testing::WithParamInterface<std::tuple<Step, int>> {};
INSTANTIATE_TEST_SUITE_P(All, IndexerSteps,
                         ::testing::Combine(::testing::ValuesIn(kSteps),
                                            ::testing::Values(8, 24, 64, 72, 128)),
                         [](const auto& info) {
                           return std::get<0>(info.param).name +
                                  std::to_string(std::get<1>(info.param)) + "Heads";
                         });

TEST_P(IndexerSteps, EqualTheCpuExactly) {
  const auto& [step, heads] = GetParam();
  for (const auto& [seed, stride] : {std::pair{1u, 700}, {2u, 777}}) {
    SCOPED_TRACE(seed);
    TestCache cache(Numerics::kFp8, kLengths);
    for (size_t s = 0; s < kLengths.size(); ++s) {
      FillIntegerKeys(cache, int(s), kLengths[s], seed + uint32_t(s));
    }
    cache.SetRows(step.rows);
    const Queries queries = IntegerQueries(cache.rows().rows, heads, seed + 10);
    const std::vector<float> want = Cpu(queries, cache.cache(), cache.rows(), stride);
    const LayerCache device = Upload(cache);
    const RowMap rows = Upload(cache.rows(), int(kLengths.size()));
    const std::vector<float> got = Gpu(queries, device, rows, stride);
    ExpectEqual(got, want, stride);
    const std::vector<float> again = Gpu(queries, device, rows, stride);
    EXPECT_EQ(std::memcmp(again.data(), got.data(), got.size() * sizeof(float)), 0);
  }
}

// Sequences of full length whose tokens lie on few pages.
class LongContext : public IndexerParity {
 protected:
  static constexpr int kTokens = 163840;
  static constexpr int kPoolTokens = 40 * kPageTokens;

  LongContext() : cache_(Numerics::kFp8, {kPoolTokens}), table_(2 * kTokens / kPageTokens) {
    FillIntegerKeys(cache_, 0, kPoolTokens, 3);
    std::mt19937 rng(4);
    for (int32_t& page : table_) page = int32_t(rng() % (kPoolTokens / kPageTokens));
  }
  void ExpectParity(int heads, const std::vector<std::pair<int, int>>& pairs, int64_t stride) {
    cache_.SetRows(pairs);
    RowMap rows = cache_.rows();
    rows.page_table = table_.data();
    rows.page_table_stride = kTokens / kPageTokens;
    const Queries queries = IntegerQueries(rows.rows, heads, 5);
    const std::vector<float> want = Cpu(queries, cache_.cache(), rows, stride);
    ExpectEqual(Gpu(queries, Upload(cache_), Upload(rows, 2), stride), want, stride);
  }

 private:
  TestCache cache_;
  std::vector<int32_t> table_;
};

TEST_F(LongContext, OneRowOfV32) { ExpectParity(64, {{0, kTokens - 1}}, kTokens); }

TEST_F(LongContext, RowsOfSeveralLengths) {
  ExpectParity(64, {{0, 100000}, {1, 131071}, {1, 131072}, {0, 5}, {1, 70000}}, 131073);
}

TEST_F(LongContext, ShortRowsWhereLongOnesCouldBe) {
  ExpectParity(64, {{0, 0}, {1, 64}, {1, 4095}}, kTokens);
}

// Wide groups over enough pages for several shares of each.
TEST_F(LongContext, AChunk) {
  std::vector<std::pair<int, int>> rows = Positions(1, 20000, 20070);
  rows.emplace_back(0, 19999);
  ExpectParity(8, rows, 20070);
}

// Hopper aligns 32 fp8 products and the sum so far to the largest of them and keeps 13 bits below
// its leading one; |q||k| bounds them all. A host model of that, cutting off towards zero or down,
// errs by up to 2^-13.7 of sum_h |w| |q||k|, and by 2^-16.5 in the mean square. One wrong element
// of the 128 would be 2^-10.
void ExpectCloseToTheCpu(const std::vector<float>& got, const std::vector<float>& want,
                         const TestCache& cache, const Queries& queries, int64_t stride) {
  const RowMap rows = cache.rows();
  double squares = 0;
  double magnitude_squares = 0;
  for (int r = 0; r < rows.rows; ++r) {
    double row_magnitude = 0;
    for (int h = 0; h < queries.heads; ++h) {
      double norm = 0;
      const uint8_t* q = &queries.q8[(size_t(r) * queries.heads + h) * kDim];
      for (int d = 0; d < kDim; ++d) norm += double{E4m3ToF32(q[d])} * E4m3ToF32(q[d]);
      row_magnitude += std::fabs(queries.weights[size_t(r) * queries.heads + h]) * std::sqrt(norm);
    }
    for (int s = 0; s <= rows.positions[r]; ++s) {
      double norm = 0;
      for (int d = 0; d < kDim; ++d) {
        const double k = cache.Key(rows.sequences[r], s, d);
        norm += k * k;
      }
      const double magnitude = row_magnitude * std::sqrt(norm);
      const double error = double{got[r * stride + s]} - want[r * stride + s];
      ASSERT_LE(std::fabs(error), 0x1p-12 * magnitude)
          << "row " << r << " column " << s << ": got " << got[r * stride + s] << ", want "
          << want[r * stride + s];
      squares += error * error;
      magnitude_squares += magnitude * magnitude;
    }
  }
  EXPECT_LE(std::sqrt(squares), 0x1p-14 * std::sqrt(magnitude_squares));
  ::testing::Test::RecordProperty("relative_error",
                                  std::to_string(std::sqrt(squares / magnitude_squares)));
}

TEST_F(IndexerParity, RealisticValuesAreClose) {
  for (const auto& [heads, magnitude] : {std::pair{64, 1.0f}, {64, 3e4f}, {64, 1e-4f}, {8, 1.0f}}) {
    for (uint32_t seed : {21u, 22u}) {
      SCOPED_TRACE(::testing::Message()
                   << heads << " heads, magnitude " << magnitude << ", seed " << seed);
      TestCache cache(Numerics::kFp8, {260, 200});
      FillNormalKeys(*cpu_, cache, 0, 260, seed);
      FillNormalKeys(*cpu_, cache, 1, 200, seed + 1);
      cache.SetRows({{0, 257}, {0, 258}, {0, 259}, {1, 199}, {1, 64}});
      const Queries queries = NormalQueries(*cpu_, 5, heads, seed + 2, magnitude);
      const std::vector<float> want = Cpu(queries, cache.cache(), cache.rows(), 260);
      const std::vector<float> got = Gpu(queries, Upload(cache), Upload(cache.rows(), 2), 260);
      ExpectCloseToTheCpu(got, want, cache, queries, 260);
    }
  }
}

TEST_F(IndexerParity, ZeroQueriesScoreZero) {
  TestCache cache(Numerics::kFp8, {200});
  FillNormalKeys(*cpu_, cache, 0, 200, 1);
  cache.SetRows({{0, 199}});
  Queries queries = NormalQueries(*cpu_, 1, 64, 2, 1.0f);
  std::fill(queries.q8.begin(), queries.q8.end(), uint8_t{0});
  EXPECT_EQ(Gpu(queries, Upload(cache), Upload(cache.rows(), 1), 200),
            std::vector<float>(200, 0.0f));
}

TEST_F(IndexerParity, ARowDoesNotDependOnItsBatch) {
  for (int heads : {8, 64, 128}) {
    SCOPED_TRACE(heads);
    TestCache cache(Numerics::kFp8, kLengths);
    for (size_t s = 0; s < kLengths.size(); ++s) {
      FillNormalKeys(*cpu_, cache, int(s), kLengths[s], 40 + uint32_t(s));
    }
    const LayerCache device = Upload(cache);
    const int sequences = static_cast<int>(kLengths.size());
    const std::vector<std::pair<int, int>> pairs = Mixed();
    const Queries queries = NormalQueries(*cpu_, int(pairs.size()), heads, 50, 1.0f);
    cache.SetRows(pairs);
    const std::vector<float> all = Gpu(queries, device, Upload(cache.rows(), sequences), 701);
    for (size_t r = 0; r < pairs.size(); r += r < 125 ? 25 : 1) {
      cache.SetRows({pairs[r]});
      const int64_t stride = pairs[r].second + 1;
      const std::vector<float> alone =
          Gpu(queries.Only(int(r)), device, Upload(cache.rows(), sequences), stride);
      ASSERT_EQ(std::memcmp(alone.data(), &all[r * 701], stride * sizeof(float)), 0) << "row " << r;
    }
  }
}

TEST_F(IndexerParity, NoRowsIsLegal) {
  TestCache cache(Numerics::kFp8, {10});
  cache.SetRows(std::vector<std::pair<int, int>>{});
  EXPECT_TRUE(Gpu({64, {}, {}}, Upload(cache), Upload(cache.rows(), 1), 10).empty());
}

}  // namespace
}  // namespace baleen::kernels
