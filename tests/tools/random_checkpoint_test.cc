#include "tools/random_checkpoint.h"

#include <cmath>

#include "model/checkpoint/random_tensors.h"
#include "tests/model/test_checkpoint.h"
#include "tests/model/tiny_model.h"
#include "tests/testing/status_matchers.h"

namespace baleen::tools {
namespace {

using ::baleen::testing::StatusIs;
using ::baleen::testing::ValueOrDie;

constexpr int kContext = 64;

// Logits of the last of 20 rows, by the whole model.
std::vector<float> Logits(const model::ModelConfig& config, kernels::Backend& backend,
                          const model::ModelWeights& weights, Numerics numerics) {
  const model::Shard shard = WholeModel(config, true);
  const KvLayout layout = LayoutOf(config, shard, numerics);
  const model::DeviceBlock pool(backend, layout.PageBytes());
  model::InProcessExchange exchange;
  auto forward = ValueOrDie(model::Forward::Create(backend, config, weights, exchange, shard,
                                                   {.numerics = numerics,
                                                    .layout = layout,
                                                    .pool = pool.data(),
                                                    .max_rows = kContext,
                                                    .max_sequences = 1,
                                                    .max_head_rows = 1,
                                                    .max_context = kContext}));
  testing::Rows rows;
  for (int i = 0; i < 20; ++i) rows.Add(0, i, std::vector<int32_t>{i * 37});
  const int32_t page = 0;
  forward->RunMain({.tokens = rows.tokens,
                    .positions = rows.positions,
                    .sequences = rows.sequences,
                    .page_table = {&page, 1},
                    .page_table_stride = 1});
  const int32_t last = 19;
  const auto logits = forward->Logits(model::Forward::Hidden::kMain, {&last, 1});
  return {logits.begin(), logits.end()};
}

TEST(RandomCheckpoint, LoadsLikeTheSameTensorsWithoutFilesAndRuns) {
  const testing::TempFolder folder;
  const std::string directory = folder / "checkpoint";
  BALEEN_ASSERT_OK(WriteRandomCheckpoint(testing::kTinyDirectory + "/config.json", directory, 5));
  const model::ModelConfig config = ValueOrDie(model::LoadModelConfig(directory));
  const auto backend = kernels::MakeCpuBackend(1);
  const model::Shard shard = WholeModel(config, true);
  const auto loaded = ValueOrDie(model::LoadWeights(*backend, directory, config, shard));
  model::RandomTensors tensors(config, shard, 5);
  const auto filled = ValueOrDie(model::LoadWeights(*backend, tensors, config, shard));
  ASSERT_EQ(filled->memory.bytes(), loaded->memory.bytes());
  for (const Numerics numerics : {Numerics::kExact, Numerics::kFp8}) {
    const std::vector<float> logits = Logits(config, *backend, *loaded, numerics);
    for (const float v : logits) ASSERT_TRUE(std::isfinite(v) && std::abs(v) < 100) << v;
    EXPECT_EQ(Logits(config, *backend, *filled, numerics), logits);
  }
}

TEST(RandomCheckpoint, NamesAMissingConfigAndAFolderThatCannotBe) {
  EXPECT_THAT(WriteRandomCheckpoint("none.json", "/dev/null/x", 0),
              StatusIs(absl::StatusCode::kNotFound, ::testing::HasSubstr("none.json")));
  EXPECT_THAT(WriteRandomCheckpoint(testing::kTinyDirectory + "/config.json", "/dev/null/x", 0),
              StatusIs(absl::StatusCode::kUnavailable, ::testing::HasSubstr("/dev/null/x")));
}

}  // namespace
}  // namespace baleen::tools
