// The trained checkpoint decoded from recorded steps of fixed shapes, beside the same engine whose
// steps are issued as they are.
#include "engine/decode_pass.h"

#include "common/check.h"
#include "engine/local_engine.h"
#include "gmock/gmock.h"
#include "tests/model/goldens.h"
#include "tests/model/tiny_model.h"
#include "tests/testing/recording_backend.h"

namespace baleen::engine {
namespace {

using ::baleen::testing::Goldens;
using ::baleen::testing::kTinyDirectory;
using ::baleen::testing::RecordingBackend;
using ::baleen::testing::TinyConfig;
using ::baleen::testing::ValueOrDie;

constexpr int kContext = 1100;  // the longest prompt and some tokens more
constexpr int kSequences = 6;

// An engine over the whole checkpoint, on a backend that may record.
class Engine {
 public:
  Engine(std::unique_ptr<kernels::Backend> backend, int drafts, Numerics numerics)
      : backend_(std::move(backend)),
        shard_(model::WholeModel(TinyConfig(), drafts > 0)),
        weights_(ValueOrDie(model::LoadWeights(*backend_, kTinyDirectory, TinyConfig(), shard_))),
        layout_(model::LayoutOf(TinyConfig(), shard_, numerics)),
        pool_(*backend_, layout_.PageBytes() * kPages) {
    forward_ =
        ValueOrDie(model::Forward::Create(*backend_, TinyConfig(), *weights_, exchange_, shard_,
                                          {.numerics = numerics,
                                           .layout = layout_,
                                           .pool = pool_.data(),
                                           .max_rows = 512,
                                           .max_sequences = kSequences,
                                           .max_head_rows = 5,
                                           .max_context = kContext}));
    engine_.emplace(
        *forward_,
        LocalEngine::Options{.shard = shard_,
                             .pages = kPages,
                             .max_sequences = kSequences,
                             .max_head_rows = 5,
                             .drafts = drafts,
                             .max_context = kContext,
                             .index_topk = TinyConfig().index_topk,
                             .vocabulary = {.limit = 4090, .missing = {4087}, .eos_ids = {1}}});
  }

  // All at once; the results in order.
  std::vector<std::vector<int32_t>> Generate(const std::vector<std::vector<int32_t>>& prompts) {
    std::vector<uint64_t> ids;
    for (size_t i = 0; i < prompts.size(); ++i) {
      const float temperature = i % 2 == 0 ? 0.0f : 0.9f;
      ids.push_back(ValueOrDie(engine_->Submit(prompts[i], {.max_new_tokens = 30 + int(i) * 7,
                                                            .temperature = temperature,
                                                            .frequency_penalty = 0.2f,
                                                            .seed = 5 + i,
                                                            .ignore_eos = true,
                                                            .top_logprobs = 1})));
    }
    while (engine_->Step()) {
    }
    std::vector<std::vector<int32_t>> tokens;
    for (const uint64_t id : ids) {
      const auto result = engine_->Take(id);
      BALEEN_CHECK(result.has_value() && result->status.ok());
      EXPECT_EQ(result->logprobs.size(), result->tokens.size());
      tokens.push_back(result->tokens);
    }
    return tokens;
  }

 private:
  static constexpr int kPages = 120;
  std::unique_ptr<kernels::Backend> backend_;
  model::Shard shard_;
  std::unique_ptr<model::ModelWeights> weights_;
  KvLayout layout_;
  model::DeviceBlock pool_;
  model::InProcessExchange exchange_;
  std::unique_ptr<model::Forward> forward_;
  std::optional<LocalEngine> engine_;
};

// Sequences of all lengths, which end one after the other; the last runs into max_context.
std::vector<std::vector<int32_t>> Prompts() {
  const auto needle = Goldens::Get().Ids("needle", "prompt_ids");
  std::vector<std::vector<int32_t>> prompts;
  for (const size_t tokens : {size_t{1}, size_t{63}, size_t{200}, size_t{300}, needle.size()}) {
    prompts.emplace_back(needle.begin(), needle.begin() + tokens);
  }
  prompts.emplace_back();
  while (prompts.back().size() < size_t{kContext} - 20) {
    prompts.back().push_back(needle[prompts.back().size() % needle.size()]);
  }
  return prompts;
}

class RecordedSteps : public ::testing::TestWithParam<std::tuple<int, Numerics>> {};
INSTANTIATE_TEST_SUITE_P(DraftsAndNumerics, RecordedSteps,
                         ::testing::Combine(::testing::Values(0, 1, 3),
                                            ::testing::Values(Numerics::kExact, Numerics::kFp8)));

TEST_P(RecordedSteps, GiveTheTokensOfStepsAsTheyAre) {
  const auto [drafts, numerics] = GetParam();
  Engine plain(kernels::MakeCpuBackend(2), drafts, numerics);
  auto backend = std::make_unique<RecordingBackend>(kernels::MakeCpuBackend(2));
  RecordingBackend& recording = *backend;
  Engine recorded(std::move(backend), drafts, numerics);
  EXPECT_EQ(recorded.Generate(Prompts()), plain.Generate(Prompts()));
  EXPECT_GT(recording.replays, 0);
}

}  // namespace
}  // namespace baleen::engine
