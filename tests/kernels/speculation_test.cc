#include "gmock/gmock.h"
#include "kernels/testing.h"

namespace baleen::kernels {
namespace {

using ::testing::ElementsAre;

constexpr int32_t kEmpty = 3;  // of three sequences

// Rows of three sequences with two drafts each; the third has pages for one draft only.
struct Step {
  std::vector<int32_t> tokens = {10, 11, 12, 20, 21, 22, 30, 31, 0};
  std::vector<int32_t> positions = {5, 6, 7, 63, 64, 65, 126, 127, 0};
  std::vector<int32_t> sequences = {0, 0, 0, 1, 1, 1, 2, 2, kEmpty};
  std::vector<int32_t> next_tokens = std::vector<int32_t>(9, -7);
  std::vector<int32_t> last_rows = std::vector<int32_t>(3, -7);
  std::vector<int32_t> newest_tokens = std::vector<int32_t>(3, -7);
  std::vector<int32_t> newest_positions = std::vector<int32_t>(3, -7);

  RowMap rows() const {
    return {.rows = 9,
            .positions = positions.data(),
            .sequences = sequences.data(),
            .empty_sequence = kEmpty};
  }
  void Accept(Backend& backend, const std::vector<int32_t>& chosen) {
    backend.AcceptDrafts({.tokens = tokens.data(),
                          .chosen = chosen.data(),
                          .rows = rows(),
                          .sequences = 3,
                          .per_sequence = 3,
                          .next_tokens = next_tokens.data(),
                          .last_rows = last_rows.data(),
                          .newest_tokens = newest_tokens.data(),
                          .newest_positions = newest_positions.data()});
  }
};

TEST(AcceptDrafts, TheLastRowIsTheFirstThatChoseAnotherToken) {
  const auto backend = MakeCpuBackend(1);
  Step step;
  // All right; the first wrong, though the second would match; right up to the row without a page.
  step.Accept(*backend, {11, 12, 13, 99, 22, 23, 31, 0, 5});
  EXPECT_THAT(step.last_rows, ElementsAre(2, 3, 7));
  EXPECT_THAT(step.next_tokens, ElementsAre(11, 12, 13, 99, 22, 23, 31, 0, 5));
  EXPECT_THAT(step.newest_tokens, ElementsAre(13, 99, 0));
  EXPECT_THAT(step.newest_positions, ElementsAre(8, 64, 128));
}

TEST(AcceptDrafts, ARowWithoutATokenEndsTheWalk) {
  const auto backend = MakeCpuBackend(1);
  Step step;
  step.tokens[2] = -1;  // no draft is negative, but what a broken row "chose" may look like one
  step.Accept(*backend, {11, kBrokenLogit, 12, kNothingLeft, 1, 1, 1, 1, kOverflow});
  EXPECT_THAT(step.next_tokens, ElementsAre(11, 0, 12, 0, 1, 1, 1, 1, 0));
  EXPECT_EQ(step.last_rows[1], 3);
}

TEST(DraftRows, FollowTheLastAcceptedRowWhereThereIsASlot) {
  const auto backend = MakeCpuBackend(1);
  Step step;
  step.Accept(*backend, {11, 12, 13, 99, 22, 23, 31, 1, 5});
  const std::vector<int32_t> drafts = {40, kBrokenLogit, 42}, slots = {10, 128, 128};
  std::vector<int32_t> tokens(3), positions(3), sequences(3);
  backend->DraftRows({.drafts = drafts.data(),
                      .last_rows = step.last_rows.data(),
                      .rows = step.rows(),
                      .slots = slots.data(),
                      .sequences = 3,
                      .ahead = 2,
                      .tokens = tokens.data(),
                      .positions = positions.data(),
                      .row_sequences = sequences.data()});
  EXPECT_THAT(tokens, ElementsAre(40, 0, 42));
  EXPECT_THAT(positions, ElementsAre(9, 65, 0));
  EXPECT_THAT(sequences, ElementsAre(0, 1, kEmpty));
}

// Sequence 0 goes on from sequence 2 of the step before, which has a slot for one draft only;
// sequence 1 is as the host wrote it, sequence 2 has no slot at all any more.
TEST(FollowRows, TakeTheNewestTokenAndItsDrafts) {
  const auto backend = MakeCpuBackend(1);
  Step step;
  step.Accept(*backend, {11, 12, 13, 99, 22, 23, 31, 0, 5});
  const std::vector<int32_t> drafts = {40, 41, 42, 0, 50, 51, kBrokenLogit, 0};  // stride 4
  const std::vector<int32_t> follows = {2, -1, 0}, slots = {130, 70, 8};
  std::vector<int32_t> tokens(9, 7), positions(9, 7), sequences(9, 7);
  std::vector<SamplingRow> sampling(9, {.position = 77});
  backend->FollowRows({.follows = follows.data(),
                       .newest_tokens = step.newest_tokens.data(),
                       .newest_positions = step.newest_positions.data(),
                       .drafts = drafts.data(),
                       .drafts_stride = 4,
                       .slots = slots.data(),
                       .sequences = 3,
                       .per_sequence = 3,
                       .empty_sequence = kEmpty,
                       .tokens = tokens.data(),
                       .positions = positions.data(),
                       .row_sequences = sequences.data(),
                       .sampling = sampling.data()});
  EXPECT_THAT(tokens, ElementsAre(0, 42, 0, 7, 7, 7, 13, 40, 50));
  EXPECT_THAT(positions, ElementsAre(128, 129, 0, 7, 7, 7, 0, 0, 0));
  EXPECT_THAT(sequences, ElementsAre(0, 0, kEmpty, 7, 7, 7, kEmpty, kEmpty, kEmpty));
  EXPECT_EQ(sampling[1].position, 130);
  EXPECT_EQ(sampling[4].position, 77);
}

}  // namespace
}  // namespace baleen::kernels
