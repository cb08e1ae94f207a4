// The forward pass against an independent implementation (models/tiny-dsv32/golden).
#include <map>

#include "gmock/gmock.h"
#include "tests/model/goldens.h"

namespace baleen::model {
namespace {

using ::baleen::testing::Goldens;
using ::baleen::testing::MaxAbsDifference;
using ::baleen::testing::Rows;
using ::baleen::testing::TinyConfig;
using ::baleen::testing::TinyShard;
using Hidden = Forward::Hidden;

constexpr float kLogits = 2e-3f;     // absolute
constexpr float kHidden = 1e-4f;     // of the row's largest
constexpr float kMtpLogits = 5e-3f;  // absolute

class GoldenTest : public ::testing::TestWithParam<const char*> {
 protected:
  const Goldens& goldens_ = Goldens::Get();
  const std::string prompt_ = GetParam();
  const std::vector<int32_t> ids_ = goldens_.Ids(prompt_, "prompt_ids");
  const int last_ = static_cast<int>(ids_.size()) - 1;

  void RunPrompt(TinyShard& tiny) const {
    Rows rows;
    rows.Add(0, 0, ids_);
    tiny.Run(rows);
  }
};

// The prompts that some goldens are kept for.
class ShortPrompt : public GoldenTest {};
class DeepPrompt : public GoldenTest {};
class LongPrompt : public GoldenTest {};  // more keys than index_topk

INSTANTIATE_TEST_SUITE_P(Prompts, GoldenTest,
                         ::testing::Values("story", "capital", "prose", "needle", "tool"));
INSTANTIATE_TEST_SUITE_P(Prompts, ShortPrompt, ::testing::Values("story", "capital", "prose"));
INSTANTIATE_TEST_SUITE_P(Prompts, DeepPrompt, ::testing::Values("story", "needle"));
INSTANTIATE_TEST_SUITE_P(Prompts, LongPrompt, ::testing::Values("needle"));

TEST_P(GoldenTest, LastLogits) {
  TinyShard tiny = testing::WholeTiny();
  RunPrompt(tiny);
  const auto want = goldens_.Tensor<float>(prompt_ + ".last_logits");
  EXPECT_LT(MaxAbsDifference(tiny.LogitsOf(last_), want), kLogits);
}

TEST_P(GoldenTest, EveryRowsArgmax) {
  TinyShard tiny = testing::WholeTiny();
  RunPrompt(tiny);
  const auto want = goldens_.Tensor<int32_t>(prompt_ + ".argmax");
  for (int r = 0; r <= last_; ++r) {
    const std::vector<float> logits = tiny.LogitsOf(r);
    const auto best = std::max_element(logits.begin(), logits.end());
    EXPECT_LT(*best - logits[want[r]], 2 * kLogits) << "row " << r;
  }
}

TEST_P(ShortPrompt, EveryRowsLogits) {
  TinyShard tiny = testing::WholeTiny();
  RunPrompt(tiny);
  const auto want = goldens_.Tensor<float>(prompt_ + ".logits");
  const auto got = tiny.forward().Logits(Hidden::kMain, Rows{ids_, {}, {}}.All());
  EXPECT_LT(MaxAbsDifference(got, want), kLogits);
}

// What the observer saw of each layer.
struct Seen {
  std::map<int, std::vector<float>> hidden;           // [rows, hidden]
  std::map<int, std::vector<int32_t>> last_selected;  // of the last row

  static void OnLayer(void* context, int layer, const kernels::Matrix& stream,
                      const int32_t* selected, int topk) {
    auto* seen = static_cast<Seen*>(context);
    const float* values = stream.row<float>(0);
    seen->hidden[layer].assign(values, values + size_t(stream.rows) * stream.cols);
    if (selected == nullptr) return;
    const int32_t* row = selected + size_t(stream.rows - 1) * topk;
    seen->last_selected[layer].assign(row, row + topk);
  }
};

TEST_P(DeepPrompt, HiddenStatesOfEveryLayer) {
  TinyShard tiny = testing::WholeTiny();
  Seen seen;
  tiny.forward().Observe(&Seen::OnLayer, &seen);
  RunPrompt(tiny);
  const size_t dim = TinyConfig().hidden_size;
  for (int layer = 0; layer < TinyConfig().num_hidden_layers; ++layer) {
    const auto want = goldens_.Tensor<float>(prompt_ + ".hidden." + std::to_string(layer));
    const std::vector<float>& all = seen.hidden.at(layer);
    for (size_t at = 0; at < want.size(); at += dim) {
      const std::span<const float> row(want.data() + at, dim);
      const std::span<const float> got(all.data() + all.size() - want.size() + at, dim);
      float largest = 0;
      for (const float v : row) largest = std::max(largest, std::abs(v));
      EXPECT_LT(MaxAbsDifference(got, row), kHidden * largest)
          << "layer " << layer << " row " << at / dim;
    }
  }
}

TEST_P(LongPrompt, SelectedKeysOfTheLastRow) {
  TinyShard tiny = testing::WholeTiny();
  Seen seen;
  tiny.forward().Observe(&Seen::OnLayer, &seen);
  RunPrompt(tiny);
  for (int layer = 0; layer < TinyConfig().num_hidden_layers; ++layer) {
    const auto want = goldens_.Tensor<int32_t>(prompt_ + ".topk_last." + std::to_string(layer));
    EXPECT_EQ(seen.last_selected.at(layer), want) << "layer " << layer;
  }
}

TEST_P(DeepPrompt, MtpLogits) {
  TinyShard tiny = testing::WholeTiny();
  RunPrompt(tiny);
  Rows next;
  next.Add(0, 0, goldens_.Ids(prompt_, "mtp_next_ids"));
  tiny.forward().RunMtp(tiny.BatchOf(next), Hidden::kMain, next.All());
  std::vector<int32_t> rows = next.All();
  rows.erase(rows.begin(), rows.end() - 8);
  const auto want = goldens_.Tensor<float>(prompt_ + ".mtp_logits_last8");
  EXPECT_LT(MaxAbsDifference(tiny.forward().Logits(Hidden::kMtp, rows), want), kMtpLogits);
}

TEST_P(GoldenTest, GreedyContinuationBySingleTokenSteps) {
  TinyShard tiny = testing::WholeTiny();
  RunPrompt(tiny);
  const auto want = goldens_.Ids(prompt_, "greedy_ids");
  std::vector<int32_t> got = {tiny.ArgmaxOf(last_)};
  while (got.size() < want.size() && got.back() == want[got.size() - 1]) {
    Rows step;
    step.Add(0, last_ + static_cast<int>(got.size()), {&got.back(), 1});
    tiny.Run(step);
    got.push_back(tiny.ArgmaxOf(0));
  }
  EXPECT_EQ(got, want);
}

}  // namespace
}  // namespace baleen::model
