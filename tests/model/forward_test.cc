// However a prompt is cut into batches, stages and ranks, the results are those of one run, bit for
// bit: the CPU backend's operations do not let a row depend on the others.
#include "model/forward.h"

#include <cmath>
#include <cstring>
#include <thread>

#include "gmock/gmock.h"
#include "tests/model/goldens.h"
#include "tests/model/rank_exchange.h"
#include "tests/testing/status_matchers.h"

namespace baleen::model {
namespace {

using ::baleen::testing::Goldens;
using ::baleen::testing::MaxAbsDifference;
using ::baleen::testing::Rows;
using ::baleen::testing::StatusIs;
using ::baleen::testing::TinyConfig;
using ::baleen::testing::TinyOptions;
using ::baleen::testing::TinyShard;
using ::testing::HasSubstr;
using Hidden = Forward::Hidden;

std::vector<int32_t> Prompt(const std::string& name) {
  return Goldens::Get().Ids(name, "prompt_ids");
}

// Long enough that most rows select their keys.
constexpr size_t kLong = 450;
std::vector<int32_t> LongPrompt() {
  std::vector<int32_t> ids = Prompt("needle");
  ids.resize(kLong);
  return ids;
}
std::vector<int32_t> LongPromptShifted() {
  std::vector<int32_t> ids = Goldens::Get().Ids("needle", "mtp_next_ids");
  ids.resize(kLong);
  return ids;
}

// Logits of the prompt's last row, of the main model and of MTP.
struct LastLogits {
  std::vector<float> main, mtp;
};

// A prompt as one batch through one shard.
std::vector<float> OneRun(const std::vector<int32_t>& ids) {
  TinyShard tiny = testing::WholeTiny();
  Rows rows;
  rows.Add(0, 0, ids);
  tiny.Run(rows);
  return tiny.LogitsOf(static_cast<int>(ids.size()) - 1);
}

// The long prompt, its chunks' sizes taken from `sizes` in turn.
LastLogits InChunks(std::span<const int> sizes) {
  TinyShard tiny = testing::WholeTiny();
  const std::vector<int32_t> ids = LongPrompt(), next = LongPromptShifted();
  LastLogits logits;
  int begin = 0;
  for (size_t i = 0; begin < int(ids.size()); ++i) {
    const int size = std::min(sizes[i % sizes.size()], int(ids.size()) - begin);
    Rows rows, shifted;
    rows.Add(0, begin, std::span(ids).subspan(begin, size));
    shifted.Add(0, begin, std::span(next).subspan(begin, size));
    tiny.Run(rows);
    tiny.forward().RunMtp(tiny.BatchOf(shifted), Hidden::kMain, shifted.All());
    logits = {tiny.LogitsOf(size - 1), tiny.LogitsOf(size - 1, Hidden::kMtp)};
    begin += size;
  }
  return logits;
}

TEST(Forward, ChunksGiveTheSameAsOneRun) {
  const LastLogits want = InChunks(std::vector<int>{int(kLong)});
  for (const std::vector<int>& sizes : {std::vector<int>{64}, {1, 63, 100, 7, 256, 13}}) {
    const LastLogits got = InChunks(sizes);
    EXPECT_EQ(MaxAbsDifference(got.main, want.main), 0) << sizes[0];
    EXPECT_EQ(MaxAbsDifference(got.mtp, want.mtp), 0) << sizes[0];
  }
}

TEST(Forward, SequencesOfOneBatchDoNotMix) {
  TinyShard tiny = testing::WholeTiny();
  const std::vector<std::vector<int32_t>> prompts = {Prompt("tool"), Prompt("story"), LongPrompt(),
                                                     Prompt("prose")};
  Rows rows;
  std::vector<int> last;
  for (size_t s = 0; s < prompts.size(); ++s) {
    rows.Add(static_cast<int>(s), 0, prompts[s]);
    last.push_back(static_cast<int>(rows.tokens.size()) - 1);
  }
  tiny.Run(rows);
  std::vector<std::vector<float>> got;
  for (const int row : last) got.push_back(tiny.LogitsOf(row));
  for (size_t s = 0; s < prompts.size(); ++s) {
    EXPECT_EQ(MaxAbsDifference(got[s], OneRun(prompts[s])), 0) << s;
  }
}

// Decode rows, a prefill chunk and a verify run of four tokens share a batch.
TEST(Forward, RowsOfDifferentKindsShareABatch) {
  TinyShard tiny = testing::WholeTiny();
  const std::vector<int32_t> longer = LongPrompt(), tool = Prompt("tool"), story = Prompt("story");
  Rows before;
  before.Add(0, 0, std::span(longer).first(400));
  before.Add(1, 0, std::span(tool).first(tool.size() - 4));
  before.Add(2, 0, std::span(story).first(story.size() - 1));
  tiny.Run(before);
  Rows mixed;
  mixed.Add(2, int(story.size()) - 1, std::span(story).last(1));
  mixed.Add(0, 400, std::span(longer).subspan(400));
  mixed.Add(1, int(tool.size()) - 4, std::span(tool).last(4));
  tiny.Run(mixed);
  const int rows = static_cast<int>(mixed.tokens.size());
  const auto got_story = tiny.LogitsOf(0);
  const auto got_longer = tiny.LogitsOf(rows - 5);
  const auto got_tool = tiny.LogitsOf(rows - 1);
  EXPECT_EQ(MaxAbsDifference(got_story, OneRun(story)), 0);
  EXPECT_EQ(MaxAbsDifference(got_longer, OneRun(longer)), 0);
  EXPECT_EQ(MaxAbsDifference(got_tool, OneRun(tool)), 0);
}

class Stages : public ::testing::TestWithParam<std::tuple<int, Numerics>> {};

INSTANTIATE_TEST_SUITE_P(Sizes, Stages,
                         ::testing::Combine(::testing::Values(2, 4),
                                            ::testing::Values(Numerics::kExact, Numerics::kFp8)));

// Also the hand-over's promise: the stages' pages are pieces of the whole model's.
TEST_P(Stages, ChainedThroughTheirStreamsGiveTheWholeModelsPagesAndLogits) {
  const auto [size, numerics] = GetParam();
  const TinyOptions options = {.numerics = numerics};
  const std::vector<int32_t> ids = Prompt("tool");
  Rows rows;
  rows.Add(0, 0, ids);
  TinyShard whole = testing::WholeTiny(options);
  whole.Run(rows);

  std::vector<float> stream;
  for (int s = 0; s < size; ++s) {
    const Shard shard = PipelineStage(TinyConfig(), /*mtp=*/true, s, size);
    TinyShard stage(shard, options);
    const kernels::Matrix m = stage.forward().stream();
    ASSERT_EQ(m.dtype, DType::kF32);
    if (s > 0) stage.backend().CopyIn(m.data, stream.data(), stream.size() * sizeof(float));
    stage.Run(rows);
    stream.resize(ids.size() * m.cols);
    stage.backend().CopyOut(stream.data(), m.data, stream.size() * sizeof(float));

    // Page 63 is the sequence's first. MTP has not run.
    const size_t bytes = stage.layout().LayerBytes() * (shard.end_layer - shard.first_layer);
    EXPECT_EQ(std::memcmp(stage.pool() + 63 * stage.layout().PageBytes(),
                          whole.pool() + 63 * whole.layout().PageBytes() +
                              StageOffset(TinyConfig(), shard, numerics),
                          bytes),
              0)
        << "stage " << s;
    if (!shard.last()) continue;
    EXPECT_EQ(stage.LogitsOf(int(ids.size()) - 1), whole.LogitsOf(int(ids.size()) - 1));
  }
}

TEST(Forward, RanksWithAPartOfTheExpertsAgreeWithOneProcess) {
  constexpr int kRanks = 2;
  testing::RankExchanges exchanges(kRanks, TinyConfig().n_routed_experts);
  const std::vector<int32_t> prompts[kRanks] = {LongPrompt(), Prompt("story")};
  std::vector<float> got[kRanks];
  std::vector<std::thread> threads;
  for (int r = 0; r < kRanks; ++r) {
    threads.emplace_back([&, r] {
      TinyShard rank(ExpertRank(TinyConfig(), true, r, kRanks), {}, &exchanges.rank(r));
      const std::vector<int32_t>& ids = prompts[r];
      Rows rows;
      rows.Add(0, 0, ids);
      rank.Run(rows);
      got[r] = rank.LogitsOf(int(ids.size()) - 1);
      rank.Run(r == 0 ? Rows{} : rows);  // a rank without rows still takes part
      if (r == 0) return;
      EXPECT_EQ(rank.LogitsOf(int(ids.size()) - 1), got[r]);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int r = 0; r < kRanks; ++r) {
    EXPECT_EQ(MaxAbsDifference(got[r], OneRun(prompts[r])), 0) << "rank " << r;
  }
}

TEST(Forward, SeveralThreadsGiveTheSameBits) {
  const std::vector<int32_t> ids = Prompt("tool");
  Rows rows;
  rows.Add(0, 0, ids);
  TinyShard one = testing::WholeTiny(), two = testing::WholeTiny({.threads = 2});
  one.Run(rows);
  two.Run(rows);
  EXPECT_EQ(one.LogitsOf(int(ids.size()) - 1), two.LogitsOf(int(ids.size()) - 1));
}

// Rewriting rows, as after rejected drafts, leaves nothing of what stood there.
TEST(Forward, OverwrittenRowsLeaveNoTrace) {
  const std::vector<int32_t> ids = Prompt("tool");
  const int last = static_cast<int>(ids.size()) - 1;
  TinyShard clean = testing::WholeTiny(), rewritten = testing::WholeTiny();
  Rows all, wrong, right;
  all.Add(0, 0, ids);
  wrong.Add(0, 0, std::span(ids).first(last - 2));
  wrong.Add(0, last - 2, std::vector<int32_t>{7, 8, 9});
  right.Add(0, last - 2, std::span(ids).last(3));
  clean.Run(all);
  rewritten.Run(wrong);
  rewritten.Run(right);
  EXPECT_EQ(MaxAbsDifference(rewritten.LogitsOf(2), clean.LogitsOf(last)), 0);
}

// Log-probability of each of `tokens` given what stands before it: rows first .. of the last run.
std::vector<double> Logprobs(TinyShard& tiny, int first, std::span<const int32_t> tokens) {
  std::vector<double> result;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::vector<float> logits = tiny.LogitsOf(first + static_cast<int>(i));
    double sum = 0;
    for (const float l : logits) sum += std::exp(double(l));
    result.push_back(logits[tokens[i]] - std::log(sum));
  }
  return result;
}

// Mean |error| of the log-probability of greedy tokens. Answers are sharp and hardly move; the
// plain completion is of a text the model is unsure of, where already bf16 and the fp8 cache alone,
// with every product in f32 inputs, move it by 0.06.
class Fp8Error : public ::testing::TestWithParam<std::pair<const char*, double>> {};

INSTANTIATE_TEST_SUITE_P(Prompts, Fp8Error,
                         ::testing::Values(std::pair("story", 0.02), std::pair("capital", 0.02),
                                           std::pair("needle", 0.02), std::pair("tool", 0.02),
                                           std::pair("prose", 0.25)));

TEST_P(Fp8Error, StaysSmall) {
  const auto [prompt, bound] = GetParam();
  const std::vector<int32_t> ids = Prompt(prompt);
  const std::vector<int32_t> greedy = Goldens::Get().Ids(prompt, "greedy_ids");
  Rows rows;
  rows.Add(0, 0, ids);
  rows.Add(0, int(ids.size()), std::span(greedy).first(greedy.size() - 1));
  TinyShard exact = testing::WholeTiny(), fp8 = testing::WholeTiny({.numerics = Numerics::kFp8});
  exact.Run(rows);
  fp8.Run(rows);
  const auto want = Logprobs(exact, int(ids.size()) - 1, greedy);
  const auto got = Logprobs(fp8, int(ids.size()) - 1, greedy);
  double error = 0;
  for (size_t i = 0; i < want.size(); ++i) error += std::abs(got[i] - want[i]);
  error /= double(want.size());
  RecordProperty("mean_logprob_error", std::to_string(error));
  EXPECT_LT(error, bound);
  EXPECT_GT(error, 0) << "fp8 did the same arithmetic as exact";
}

// The sharpest sign of a wrong indexer or cache: a number from far above must come out right.
TEST(Forward, Fp8AnswersTheNeedleLikeExact) {
  TinyShard tiny = testing::WholeTiny({.numerics = Numerics::kFp8});
  const std::vector<int32_t> ids = Prompt("needle");
  const auto want = Goldens::Get().Ids("needle", "greedy_ids");
  Rows rows;
  rows.Add(0, 0, ids);
  tiny.Run(rows);
  std::vector<int32_t> got = {tiny.ArgmaxOf(int(ids.size()) - 1)};
  while (got.size() < want.size()) {
    Rows step;
    step.Add(0, int(ids.size() + got.size()) - 1, {&got.back(), 1});
    tiny.Run(step);
    got.push_back(tiny.ArgmaxOf(0));
  }
  EXPECT_EQ(got, want);
}

// Rows that fill up a step of a fixed shape, and a bound on the keys instead of the real number:
// what the other rows compute and what lies in the cache is the same to the bit.
TEST(Forward, EmptyRowsChangeNothing) {
  for (const Numerics numerics : {Numerics::kExact, Numerics::kFp8}) {
    TinyShard plain = testing::WholeTiny({.numerics = numerics});
    TinyShard filled = testing::WholeTiny({.numerics = numerics});
    const std::vector<int32_t> prompt = Prompt("needle");
    const size_t bytes = plain.layout().PageBytes() * 4 * PagesFor(1024);
    for (TinyShard* tiny : {&plain, &filled}) {
      std::memset(tiny->pool(), 0, bytes);
      Rows rows;
      rows.Add(0, 0, prompt);
      tiny->Run(rows);
    }
    const int at = static_cast<int>(prompt.size());
    Rows rows;
    rows.Add(0, at, std::vector<int32_t>{7, 8});
    plain.Run(rows);

    // Sequence 2 is the empty one.
    const std::vector<int32_t> tokens = {0, 7, 8, 0}, positions = {0, at, at + 1, 0},
                               sequences = {2, 0, 0, 2};
    const Batch batch = filled.BatchOf(rows);
    filled.forward().RunMain({.map = {.rows = 4,
                                      .positions = positions.data(),
                                      .sequences = sequences.data(),
                                      .page_table = batch.page_table.data(),
                                      .page_table_stride = batch.page_table_stride,
                                      .empty_sequence = 2},
                              .tokens = tokens.data(),
                              .keys = 1024});
    EXPECT_EQ(filled.LogitsOf(1), plain.LogitsOf(0));
    EXPECT_EQ(filled.LogitsOf(2), plain.LogitsOf(1));
    EXPECT_EQ(std::memcmp(filled.pool(), plain.pool(), bytes), 0);
  }
}

class ForwardOptionsTest : public ::testing::Test {
 protected:
  absl::Status Create() {
    return Forward::Create(*backend_, config_, weights_, exchange_, shard_, options_).status();
  }

  std::unique_ptr<kernels::Backend> backend_ = kernels::MakeCpuBackend(1);
  ModelConfig config_ = TinyConfig();
  Shard shard_ = WholeModel(config_, true);
  ModelWeights weights_;
  InProcessExchange exchange_;
  std::byte pool_;
  ForwardOptions options_ = {.layout = LayoutOf(config_, shard_, Numerics::kExact),
                             .pool = &pool_,
                             .max_rows = 4,
                             .max_sequences = 2,
                             .max_head_rows = 2,
                             .max_context = 128};
};

TEST_F(ForwardOptionsTest, BadOptionsAreNamed) {
  BALEEN_EXPECT_OK(Create());
  const auto refused = [&](const char* field) {
    EXPECT_THAT(Create(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(field)));
  };
  const ForwardOptions good = options_;
  options_.max_rows = 0;
  refused("max_rows");
  options_ = good;
  options_.max_sequences = 0;
  refused("max_sequences");
  options_ = good;
  options_.max_head_rows = 0;
  refused("max_head_rows");
  options_ = good;
  options_.max_context = config_.max_position_embeddings + 1;
  refused("max_context");
  options_ = good;
  options_.pool = nullptr;
  refused("pool");
  options_ = good;
  options_.layout.layers = 1;
  refused("layout");
  options_ = good;
  config_.num_nextn_predict_layers = 0;
  refused("mtp");
}

TEST_F(ForwardOptionsTest, SizesThatFp8CannotHoldAreNamed) {
  options_.numerics = Numerics::kFp8;
  for (int ModelConfig::*field : {&ModelConfig::hidden_size, &ModelConfig::q_lora_rank,
                                  &ModelConfig::moe_intermediate_size}) {
    config_ = TinyConfig();
    config_.*field = 192;
    options_.layout = LayoutOf(config_, shard_, Numerics::kFp8);
    EXPECT_THAT(Create(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("128")));
  }
  config_ = TinyConfig();
  config_.index_head_dim = 64;
  options_.layout = LayoutOf(config_, shard_, Numerics::kFp8);
  EXPECT_THAT(Create(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("index_head_dim")));
}

}  // namespace
}  // namespace baleen::model
