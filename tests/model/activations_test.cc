#include "model/activations.h"

#include <vector>

#include "gtest/gtest.h"
#include "tests/model/tiny_model.h"

namespace baleen::model {
namespace {

using ::baleen::testing::TinyConfig;

ForwardOptions Options(Numerics numerics, int max_rows) {
  return {.numerics = numerics,
          .max_rows = max_rows,
          .max_sequences = 2,
          .max_head_rows = 3,
          .max_context = 512};
}

TEST(Activations, TheSizeDoesNotDependOnTheBase) {
  const Shard shard = WholeModel(TinyConfig(), true);
  const ForwardOptions options = Options(Numerics::kFp8, 32);
  const size_t bytes = PlanActivations(TinyConfig(), shard, options, nullptr).bytes;
  std::vector<std::byte> memory(bytes);
  const PlannedActivations placed = PlanActivations(TinyConfig(), shard, options, memory.data());
  EXPECT_EQ(placed.bytes, bytes);
  const auto* last = placed.activations.ffn.expert_out.row<std::byte>(0);
  EXPECT_GE(last, memory.data());
  EXPECT_LE(last + 32 * 4 * 256 * 2, memory.data() + bytes);
}

TEST(Activations, OnlyFp8HasQuantisedBuffersAndBf16) {
  const Shard shard = WholeModel(TinyConfig(), true);
  std::vector<std::byte> memory(
      PlanActivations(TinyConfig(), shard, Options(Numerics::kExact, 8), nullptr).bytes);
  const auto exact =
      PlanActivations(TinyConfig(), shard, Options(Numerics::kExact, 8), memory.data());
  EXPECT_EQ(exact.activations.h8.data, nullptr);
  EXPECT_EQ(exact.activations.x.dtype, DType::kF32);
  EXPECT_EQ(exact.activations.stream.dtype, DType::kF32);
  const auto fp8 = PlanActivations(TinyConfig(), shard, Options(Numerics::kFp8, 8), memory.data());
  EXPECT_NE(fp8.activations.h8.data, nullptr);
  EXPECT_EQ(fp8.activations.x.dtype, DType::kBf16);
  EXPECT_EQ(fp8.activations.stream.dtype, DType::kF32);
}

// A rank's experts may get every row of every rank.
TEST(Activations, ARankHasRoomForTheRowsOfAllRanks) {
  const auto plan = PlanActivations(TinyConfig(), ExpertRank(TinyConfig(), false, 0, 4),
                                    Options(Numerics::kExact, 8), nullptr);
  EXPECT_EQ(plan.activations.ffn.expert_out.rows, 8 * 4 * TinyConfig().num_experts_per_tok);
}

// One row's always fit, and there is never room for more rows than a batch has.
TEST(Activations, ScoresHaveTheRoomTheyAreGiven) {
  ForwardOptions options = Options(Numerics::kFp8, 32);
  const auto scores = [&](size_t bytes) {
    options.score_bytes = bytes;
    return PlanActivations(TinyConfig(), WholeModel(TinyConfig(), false), options, nullptr)
        .activations.indexer.score_count;
  };
  EXPECT_EQ(scores(0), 512);
  EXPECT_EQ(scores(8 * 512 * sizeof(float)), 8 * 512);
  EXPECT_EQ(scores(size_t{1} << 30), 32 * 512);
}

TEST(Activations, ForRowsCutsEveryRowBuffer) {
  const auto plan = PlanActivations(TinyConfig(), WholeModel(TinyConfig(), true),
                                    Options(Numerics::kFp8, 8), nullptr);
  const Activations a = plan.activations.ForRows(5);
  EXPECT_EQ(a.x.rows, 5);
  EXPECT_EQ(a.attention.mixed.rows, 5);
  EXPECT_EQ(a.indexer.q8.rows, 5);
  EXPECT_EQ(a.mtp.joined.rows, 5);
  EXPECT_EQ(a.head_logits.rows, 3);
}

}  // namespace
}  // namespace baleen::model
