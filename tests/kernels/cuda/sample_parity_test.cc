#include <bit>
#include <functional>
#include <ostream>

#include "kernels/cuda/parity.h"
#include "kernels/sampling_rows.h"

namespace baleen::kernels {
namespace {

using testing::GpuTest;
using testing::PackedRows;
using testing::Sampled;
using testing::SampleRows;
using testing::TestMatrix;
using testing::TestRow;

constexpr float kInf = std::numeric_limits<float>::infinity();

float FromBits(uint32_t bits) { return std::bit_cast<float>(bits); }

float Normal(std::mt19937& rng) { return std::normal_distribution<float>()(rng); }

struct Distribution {
  const char* name;
  std::function<float(std::mt19937& rng, int i)> logit;

  friend std::ostream& operator<<(std::ostream& os, const Distribution& d) { return os << d.name; }
};

const Distribution kDistributions[] = {
    {"Normal", [](std::mt19937& rng, int) { return Normal(rng); }},
    {"Peaked",
     [](std::mt19937& rng, int) { return rng() % 300 == 0 ? 20 + 3 * Normal(rng) : Normal(rng); }},
    {"AllEqual", [](std::mt19937&, int) { return 1.5f; }},
    {"TwoValues", [](std::mt19937& rng, int) { return rng() % 2 != 0 ? 3.0f : -3.0f; }},
    {"TwoZeros", [](std::mt19937& rng, int) { return rng() % 2 != 0 ? 0.0f : -0.0f; }},
    {"FewLevels", [](std::mt19937& rng, int) { return float(int(rng() % 7)) - 3; }},
    {"LastBits", [](std::mt19937& rng, int) { return FromBits(0xC0490000 + rng() % 900); }},
    {"Denormal",
     [](std::mt19937& rng, int) { return FromBits((rng() & 0x80000000) | rng() % 5000); }},
    {"HugeRange",
     [](std::mt19937& rng, int) { return std::ldexp(Normal(rng), int(rng() % 240) - 120); }},
    {"MostlyImpossible",
     [](std::mt19937& rng, int) { return rng() % 4 == 0 ? Normal(rng) : -kInf; }},
    {"Ascending", [](std::mt19937&, int i) { return float(i) * 0.01f; }},
    {"Descending", [](std::mt19937&, int i) { return float(-i) * 0.001f; }},
};

TestMatrix Logits(const Distribution& d, int rows, int limit, uint32_t seed) {
  TestMatrix m(rows, limit, DType::kF32, /*padding=*/seed % 5);
  std::mt19937 rng(seed);
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < limit; ++i) m.Set(r, i, d.logit(rng, i));
  }
  return m;
}

template <typename T>
T OneOf(std::mt19937& rng, std::initializer_list<T> values) {
  return values.begin()[rng() % values.size()];
}

// Up to `count` edits of different tokens.
std::vector<LogitEdit> RandomEdits(std::mt19937& rng, int count, int limit) {
  std::vector<LogitEdit> edits;
  const int step = std::max(1, limit / std::max(count, 1));
  for (int token = int(rng() % step); token < limit && int(edits.size()) < count; token += step) {
    edits.push_back({.token = token,
                     .bias = OneOf(rng, {0.0f, 0.0f, 1.5f, -100.0f}),
                     .generated = OneOf(rng, {0, 0, 1, 7}),
                     .drafted = static_cast<uint16_t>(rng() % 16),
                     .in_prompt = static_cast<uint8_t>(rng() % 2),
                     .masked_rows = OneOf<uint8_t>(rng, {0, 0, 0, 2})});
  }
  std::shuffle(edits.begin(), edits.end(), rng);
  return edits;
}

TestRow RandomRow(std::mt19937& rng, int limit) {
  TestRow one;
  one.row = {.seed = uint64_t{rng()} << 32 | rng(),
             .position = static_cast<int32_t>(rng() % 100000),
             .forced = rng() % 8 == 0 ? static_cast<int32_t>(rng() % limit) : -1,
             .drafts = static_cast<int32_t>(rng() % 5),
             .top_logprobs = OneOf(rng, {-1, -1, -1, 0, 1, 5, 20}),
             .top_k = OneOf(rng, {0, 0, 1, 3, 50, 1000, 500000}),
             .temperature = OneOf(rng, {0.0f, 1.0f, 1.0f, 0.7f, 0.05f, 3.0f, 1e-5f}),
             .top_p = OneOf(rng, {1.0f, 1.0f, 0.95f, 0.5f, 0.01f, 0.9999f, 1e-6f}),
             .min_p = OneOf(rng, {0.0f, 0.0f, 0.05f, 0.9f, 1.0f}),
             .repetition_penalty = OneOf(rng, {1.0f, 1.3f, 0.8f}),
             .frequency_penalty = OneOf(rng, {0.0f, 0.37f, -0.5f}),
             .presence_penalty = OneOf(rng, {0.0f, 0.9f, -1.1f})};
  one.edits = RandomEdits(rng, OneOf(rng, {0, 0, 1, 40, 3000}), limit);
  return one;
}

std::vector<TestRow> RandomRows(int rows, int limit, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<TestRow> all;
  for (int r = 0; r < rows; ++r) all.push_back(RandomRow(rng, limit));
  return all;
}

class SampleParity : public GpuTest {
 protected:
  // As SampleRows does on the CPU; `logits` becomes what the GPU left.
  Sampled OnGpu(TestMatrix& logits, const std::vector<TestRow>& rows,
                const std::vector<int32_t>& missing) {
    const PackedRows packed(rows);
    const Sampled empty(logits.rows());
    const Matrix device = Upload(logits);
    auto* tokens = Upload(empty.tokens);
    auto* logprobs = Upload(empty.logprobs);
    auto* top_tokens = Upload(empty.top_tokens);
    auto* top_logprobs = Upload(empty.top_logprobs);
    gpu_->Sample({device, logits.cols(), Upload(missing), static_cast<int>(missing.size()),
                  Upload(packed.rows), Upload(packed.edits), tokens, logprobs, top_tokens,
                  top_logprobs});
    Download(device, logits);
    Sampled out(logits.rows());
    out.tokens = GpuTest::Download(tokens, empty.tokens.size());
    out.logprobs = GpuTest::Download(logprobs, empty.logprobs.size());
    out.top_tokens = GpuTest::Download(top_tokens, empty.top_tokens.size());
    out.top_logprobs = GpuTest::Download(top_logprobs, empty.top_logprobs.size());
    return out;
  }

  static void ExpectClose(const std::vector<float>& got, const std::vector<float>& want) {
    for (size_t i = 0; i < want.size(); ++i) {
      if (got[i] == want[i] || (std::isnan(got[i]) && std::isnan(want[i]))) continue;
      ASSERT_NEAR(got[i], want[i], 1e-5 * std::max(1.0f, std::fabs(want[i]))) << i;
    }
  }

  void ExpectParity(const TestMatrix& logits, const std::vector<TestRow>& rows,
                    const std::vector<int32_t>& missing = {}) {
    TestMatrix cpu_logits = logits;
    TestMatrix gpu_logits = logits;
    const Sampled want = SampleRows(*cpu_, cpu_logits, rows, missing);
    const Sampled got = OnGpu(gpu_logits, rows, missing);
    EXPECT_TRUE(gpu_logits.SameBytes(cpu_logits));
    ASSERT_EQ(got.tokens, want.tokens);
    ASSERT_EQ(got.top_tokens, want.top_tokens);
    ExpectClose(got.logprobs, want.logprobs);
    ExpectClose(got.top_logprobs, want.top_logprobs);
  }
};

class SampleDistributions : public SampleParity,
                            public ::testing::WithParamInterface<Distribution> {};
INSTANTIATE_TEST_SUITE_P(All, SampleDistributions, ::testing::ValuesIn(kDistributions),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(SampleDistributions, AllVocabularySizes) {
  for (int limit : {1, 5, 255, 256, 257, 512, 1000}) {
    for (uint32_t seed = 1; seed <= 4; ++seed) {
      SCOPED_TRACE(::testing::Message() << "vocabulary " << limit << ", seed " << seed);
      ExpectParity(Logits(GetParam(), 64, limit, seed), RandomRows(64, limit, seed + 50));
    }
  }
}

TEST_P(SampleDistributions, TheVocabularyOfV32) {
  constexpr int kLimit = 129280;
  ExpectParity(Logits(GetParam(), 20, kLimit, 3), RandomRows(20, kLimit, 4));
}

TEST_F(SampleParity, AnyNumberOfRows) {
  for (int rows : {1, 3, 64, 256}) {
    SCOPED_TRACE(rows);
    ExpectParity(Logits(kDistributions[0], rows, 1000, rows), RandomRows(rows, 1000, rows + 1));
  }
  ExpectParity(Logits(kDistributions[1], 256, 129280, 8), RandomRows(256, 129280, 9));
}

TEST_F(SampleParity, TheLargestVocabulary) {
  constexpr int kLimit = 1 << 18;
  ExpectParity(Logits(kDistributions[2], 4, kLimit, 1),
               {{{.seed = 1, .top_logprobs = 20, .temperature = 1}, {}},
                {{.seed = 2, .temperature = 1, .top_p = 0.5f}, {}},
                {{.seed = 3, .top_k = 200000, .temperature = 1, .top_p = 0.9f}, {}},
                {{.temperature = 1}, {{.token = kLimit - 1, .bias = 30}}}});
}

// One parameter at a time, where the whole batch depends on it.
TEST_F(SampleParity, EachRestrictionAlone) {
  const std::vector<SamplingRow> kinds = {{.temperature = 1},
                                          {.top_k = 40, .temperature = 1},
                                          {.temperature = 1, .top_p = 0.9f},
                                          {.temperature = 1, .min_p = 0.05f},
                                          {.top_k = 40, .temperature = 1, .top_p = 0.9f}};
  for (const SamplingRow& kind : kinds) {
    std::vector<TestRow> rows(64, {kind, {}});
    for (int r = 0; r < 64; ++r) rows[r].row.seed = r;
    ExpectParity(Logits(kDistributions[0], 64, 20000, 5), rows);
    ExpectParity(Logits(kDistributions[5], 64, 3000, 6), rows);
  }
}

// Every token has an edit, and one row reads all those of its sequence with drafts before it.
TEST_F(SampleParity, EditsOfTheWholeVocabulary) {
  for (int limit : {5, 1000, 30001}) {
    std::mt19937 rng(limit);
    std::vector<TestRow> rows = RandomRows(8, limit, 70);
    for (int r = 0; r < 8; ++r) {
      rows[r].row.drafts = r;
      rows[r].edits = RandomEdits(rng, limit, limit);
    }
    ExpectParity(Logits(kDistributions[1], 8, limit, 71), rows);
  }
}

TEST_F(SampleParity, MissingIdsAreMasked) {
  for (int limit : {5, 1000, 129280}) {
    TestMatrix logits = Logits(kDistributions[0], 16, limit, 6);
    logits.Set(3, 1, NAN);
    ExpectParity(logits, RandomRows(16, limit, 7), {1, limit / 2, limit - 1});
  }
}

TEST_F(SampleParity, BrokenLogitsAndRowsWithoutAnyToken) {
  for (int limit : {5, 1000, 129280}) {
    TestMatrix logits = Logits(kDistributions[0], 16, limit, 8);
    logits.Set(0, 0, NAN);
    logits.Set(1, limit - 1, -NAN);
    logits.Set(2, limit / 2, kInf);
    for (int i = 0; i < limit; ++i) logits.Set(3, i, -kInf);
    logits.Set(4, 2, 3e38f);
    std::vector<TestRow> rows = RandomRows(16, limit, 9);
    rows[4] = {{.temperature = 1, .repetition_penalty = 0.01f}, {{.token = 2, .in_prompt = 1}}};
    ExpectParity(logits, rows);
  }
}

TEST_F(SampleParity, AllMaskedByEdits) {
  std::vector<LogitEdit> edits;
  for (int token = 0; token < 300; ++token) edits.push_back({.token = token, .masked_rows = 1});
  ExpectParity(Logits(kDistributions[0], 2, 300, 8),
               {{{.temperature = 1}, edits}, {{.drafts = 1, .temperature = 1}, edits}});
}

TEST_F(SampleParity, WithoutRowsAllAreGreedy) {
  const TestMatrix logits = Logits(kDistributions[5], 5, 1000, 8);
  std::vector<int32_t> want(5);
  cpu_->Sample({.logits = logits.view(), .limit = 900, .tokens = want.data()});
  auto* tokens = Poisoned<int32_t>(5);
  gpu_->Sample({.logits = Upload(logits), .limit = 900, .tokens = tokens});
  EXPECT_EQ(GpuTest::Download(tokens, 5), want);
}

TEST_F(SampleParity, ARowDependsOnNothingButItself) {
  const TestMatrix all = Logits(kDistributions[1], 64, 5000, 10);
  const std::vector<TestRow> rows = RandomRows(64, 5000, 11);
  TestMatrix logits = all;
  const Sampled batch = OnGpu(logits, rows, {});
  for (int r : {0, 7, 30, 63}) {
    TestMatrix row = testing::RowOf(all, r);
    const Sampled alone = OnGpu(row, {rows[r]}, {});
    EXPECT_EQ(alone.tokens[0], batch.tokens[r]);
    EXPECT_EQ(alone.Top(0), batch.Top(r));
    ExpectClose(alone.logprobs, {batch.logprobs[r]});
  }
}

TEST_F(SampleParity, NoRowsLaunchNothing) { ExpectParity(TestMatrix(0, 5), {}); }

using SampleParityDeath = SampleParity;

TEST_F(SampleParityDeath, RefusesWhatItCannotServe) {
  int32_t token = 0;
  const SampleParams p = {.logits = {nullptr, DType::kF32, 1, 1 << 20, 1 << 20},
                          .limit = (1 << 18) + 1,
                          .tokens = &token};
  EXPECT_DEATH(gpu_->Sample(p), "a thread has one segment's sum");
}

}  // namespace
}  // namespace baleen::kernels
