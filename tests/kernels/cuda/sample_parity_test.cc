#include <cmath>
#include <functional>
#include <limits>

#include "kernels/cuda/parity.h"

namespace baleen::kernels {
namespace {

using testing::GpuTest;

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Distribution {
  const char* name;
  std::function<float(std::mt19937& rng, int i)> logit;
};

const Distribution kDistributions[] = {
    {"normal", [](std::mt19937& rng, int) { return std::normal_distribution<float>(0, 3)(rng); }},
    {"sharp",
     [](std::mt19937& rng, int i) { return i % 97 == 5 ? 20.0f : float(rng() % 100) / 50; }},
    {"all equal", [](std::mt19937&, int) { return 0.75f; }},
    {"two values", [](std::mt19937& rng, int) { return rng() % 2 != 0 ? 1.0f : 0.5f; }},
    {"both zeros", [](std::mt19937& rng, int) { return rng() % 2 != 0 ? 0.0f : -0.0f; }},
    {"mostly impossible",
     [](std::mt19937& rng, int) { return rng() % 9 != 0 ? -kInf : float(rng() % 5); }},
    {"huge range",
     [](std::mt19937& rng, int) { return std::normal_distribution<float>(0, 1e30f)(rng); }},
    {"denormal", [](std::mt19937& rng, int) { return float(rng() % 1000) * 1e-42f; }}};

class SampleParity : public GpuTest {
 protected:
  struct Case {
    int vocab = 0;
    std::vector<float> logits;  // [rows, vocab + 3]
    std::vector<SamplingRow> rows;
    std::vector<LogitEdit> edits;
    std::vector<int32_t> missing;
  };
  struct Output {
    std::vector<int32_t> tokens, top_tokens;
    std::vector<float> logprobs, top_logprobs;
  };

  static SamplingRow RandomRow(std::mt19937& rng) {
    const float temperatures[] = {0, 0.01f, 0.7f, 1, 1.5f, 50};
    const int top_ks[] = {0, 0, 1, 2, 40, 5000};
    const float top_ps[] = {1, 1, 0.95f, 0.5f, 0.001f};
    return {.seed = rng() | uint64_t{rng()} << 32,
            .position = static_cast<int32_t>(rng() % 100000),
            .forced = rng() % 9 == 0 ? 3 : -1,
            .drafts = static_cast<int32_t>(rng() % 4),
            .top_logprobs = static_cast<int32_t>(rng() % 4 == 0 ? rng() % 21 : -1),
            .top_k = top_ks[rng() % 6],
            .temperature = temperatures[rng() % 6],
            .top_p = top_ps[rng() % 5],
            .min_p = rng() % 4 == 0 ? 0.1f : 0.0f,
            .repetition_penalty = rng() % 2 == 0 ? 1.0f : 1.3f,
            .frequency_penalty = rng() % 2 == 0 ? 0.0f : 0.7f,
            .presence_penalty = rng() % 2 == 0 ? 0.0f : -0.4f};
  }

  static void AddEdits(Case& c, SamplingRow& row, std::mt19937& rng) {
    row.first_edit = static_cast<int32_t>(c.edits.size());
    const int every = 1 + rng() % 7;
    for (int t = rng() % every; t < c.vocab && row.edits < 3000; t += every, ++row.edits) {
      c.edits.push_back({.token = t,
                         .bias = float(int(rng() % 200) - 100) / 20,
                         .generated = static_cast<int32_t>(rng() % 3),
                         .drafted = static_cast<uint16_t>(rng() % 8),
                         .in_prompt = static_cast<uint8_t>(rng() % 2),
                         .masked_rows = static_cast<uint8_t>(rng() % 3)});
    }
  }

  static Case MakeCase(const Distribution& d, int rows, int vocab, uint32_t seed) {
    std::mt19937 rng(seed);
    Case c = {.vocab = vocab};
    for (int r = 0; r < rows; ++r) {
      c.rows.push_back(RandomRow(rng));
      if (rng() % 2 == 0) AddEdits(c, c.rows.back(), rng);
      for (int i = 0; i < vocab; ++i) c.logits.push_back(d.logit(rng, i));
      c.logits.insert(c.logits.end(), 3, NAN);  // must not be read
    }
    if (vocab > 100) c.missing = {4, 50, vocab - 1};
    if (rows > 2) c.logits[vocab / 2] = NAN;                 // row 0 is broken
    if (rows > 2) c.logits[(vocab + 3) + vocab - 2] = kInf;  // row 1 too
    return c;
  }

  static SampleParams Params(const Case& c, float* logits) {
    const int rows = static_cast<int>(c.rows.size());
    return {.logits = {.data = logits, .rows = rows, .cols = c.vocab + 3, .stride = c.vocab + 3},
            .limit = c.vocab,
            .missing_count = static_cast<int>(c.missing.size())};
  }

  Output Cpu(const Case& c) {
    const size_t rows = c.rows.size();
    std::vector<float> logits = c.logits;
    Output out = {std::vector<int32_t>(rows), std::vector<int32_t>(rows * kMaxTopLogprobs, -1),
                  std::vector<float>(rows, -1), std::vector<float>(rows * kMaxTopLogprobs, -1)};
    SampleParams p = Params(c, logits.data());
    p.missing = c.missing.data();
    p.rows = c.rows.data();
    p.edits = c.edits.data();
    p.tokens = out.tokens.data();
    p.logprobs = out.logprobs.data();
    p.top_tokens = out.top_tokens.data();
    p.top_logprobs = out.top_logprobs.data();
    cpu_->Sample(p);
    return out;
  }

  Output Gpu(const Case& c) {
    const size_t rows = c.rows.size();
    SampleParams p = Params(c, Upload(c.logits));
    p.missing = Upload(c.missing);
    p.rows = Upload(c.rows);
    p.edits = Upload(c.edits);
    p.tokens = Poisoned<int32_t>(rows);
    p.logprobs = Upload(std::vector<float>(rows, -1));
    p.top_tokens = Poisoned<int32_t>(rows * kMaxTopLogprobs);
    p.top_logprobs = Upload(std::vector<float>(rows * kMaxTopLogprobs, -1));
    gpu_->Sample(p);
    return {Download(p.tokens, rows), Download(p.top_tokens, rows * kMaxTopLogprobs),
            Download(p.logprobs, rows), Download(p.top_logprobs, rows * kMaxTopLogprobs)};
  }

  static void ExpectNear(const std::vector<float>& got, const std::vector<float>& want) {
    for (size_t i = 0; i < want.size(); ++i) {
      if (std::isinf(want[i])) {
        EXPECT_EQ(got[i], want[i]) << i;
      } else {
        EXPECT_NEAR(got[i], want[i], 1e-5 + 1e-6 * std::abs(want[i])) << i;
      }
    }
  }

  void Check(const Distribution& d, int rows, int vocab, uint32_t seed) {
    SCOPED_TRACE(::testing::Message()
                 << d.name << ", " << rows << " rows of " << vocab << ", seed " << seed);
    const Case c = MakeCase(d, rows, vocab, seed);
    const Output want = Cpu(c), got = Gpu(c);
    EXPECT_EQ(got.tokens, want.tokens);
    EXPECT_EQ(got.top_tokens, want.top_tokens);
    ExpectNear(got.logprobs, want.logprobs);
    ExpectNear(got.top_logprobs, want.top_logprobs);
  }

  const std::unique_ptr<Backend> cpu_ = MakeCpuBackend(8);
};

TEST_F(SampleParity, TheSameTokensToTheBit) {
  uint32_t seed = 1;
  for (const Distribution& d : kDistributions) {
    for (const int vocab : {5, 512, 1000, 4096}) {
      for (const int rows : {1, 3, 64}) Check(d, rows, vocab, seed++);
    }
  }
}

TEST_F(SampleParity, TheRealVocabulary) {
  uint32_t seed = 100;
  for (const Distribution& d : kDistributions) {
    for (const int rows : {1, 20}) Check(d, rows, 129280, seed++);
  }
  Check(kDistributions[0], 140, 129280, seed++);  // more than there are multiprocessors
}

TEST_F(SampleParity, GreedyWithoutParameters) {
  const Case c = MakeCase(kDistributions[0], 33, 4096, 9);
  std::vector<float> logits = c.logits;
  std::vector<int32_t> want(33);
  SampleParams p = Params(c, logits.data());
  p.missing = c.missing.data();
  p.tokens = want.data();
  cpu_->Sample(p);
  p = Params(c, Upload(c.logits));
  p.missing = Upload(c.missing);
  p.tokens = Poisoned<int32_t>(33);
  gpu_->Sample(p);
  EXPECT_EQ(Download(p.tokens, 33), want);
}

TEST_F(SampleParity, NoRows) { gpu_->Sample({.logits = {.cols = 5, .stride = 5}, .limit = 5}); }

class SpeculationParity : public GpuTest {};

TEST_F(SpeculationParity, AcceptedRowsAndDraftRows) {
  const auto cpu = MakeCpuBackend(1);
  std::mt19937 rng(3);
  for (const int sequences : {0, 1, 7, 300}) {
    for (const int per : {1, 2, 4}) {
      const int rows = sequences * per;
      std::vector<int32_t> tokens(rows), chosen(rows), positions(rows), owners(rows),
          slots(sequences);
      for (int r = 0; r < rows; ++r) {
        tokens[r] = rng() % 3;
        chosen[r] = int(rng() % 4) - 1;
        const bool empty =
            r / per % 5 == 4 || (r % per > 0 && (owners[r - 1] == sequences || rng() % 9 == 0));
        positions[r] = empty ? 0 : r / per * 10 + r % per;
        owners[r] = empty ? sequences : r / per;
      }
      for (int s = 0; s < sequences; ++s) slots[s] = s * 10 + 1 + rng() % 6;
      const auto run = [&](Backend& b, auto up, auto fresh, auto down) {
        const RowMap map = {.rows = rows,
                            .positions = up(positions),
                            .sequences = up(owners),
                            .empty_sequence = sequences};
        int32_t* next = fresh(rows);
        int32_t* last = fresh(sequences);
        b.AcceptDrafts({up(tokens), up(chosen), map, sequences, per, next, last});
        int32_t* out[3] = {fresh(sequences), fresh(sequences), fresh(sequences)};
        b.DraftRows({up(slots), last, map, up(slots), sequences, 2, out[0], out[1], out[2]});
        std::vector<std::vector<int32_t>> all = {down(next, rows), down(last, sequences)};
        for (int32_t* list : out) all.push_back(down(list, sequences));
        return all;
      };
      std::vector<std::unique_ptr<std::vector<int32_t>>> host;
      const auto want = run(
          *cpu, [](std::vector<int32_t>& v) { return v.data(); },
          [&](int n) { return host.emplace_back(new std::vector<int32_t>(n + 1))->data(); },
          [](int32_t* p, int n) { return std::vector<int32_t>(p, p + n); });
      const auto got = run(
          *gpu_, [&](std::vector<int32_t>& v) { return Upload(v); },
          [&](int n) { return Poisoned<int32_t>(n); },
          [&](int32_t* p, int n) { return Download(p, n); });
      EXPECT_EQ(got, want) << sequences << " x " << per;
    }
  }
}

}  // namespace
}  // namespace baleen::kernels
