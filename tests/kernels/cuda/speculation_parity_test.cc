#include "kernels/cuda/parity.h"

namespace baleen::kernels {
namespace {

using testing::GpuTest;

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
        int32_t* newest[2] = {fresh(sequences), fresh(sequences)};
        b.AcceptDrafts(
            {up(tokens), up(chosen), map, sequences, per, next, last, newest[0], newest[1]});
        int32_t* out[3] = {fresh(sequences), fresh(sequences), fresh(sequences)};
        b.DraftRows({up(slots), last, map, up(slots), sequences, 2, out[0], out[1], out[2]});
        std::vector<std::vector<int32_t>> all = {down(next, rows), down(last, sequences)};
        for (int32_t* list : out) all.push_back(down(list, sequences));
        for (int32_t* list : newest) all.push_back(down(list, sequences));
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

TEST_F(SpeculationParity, FollowedRows) {
  const auto cpu = MakeCpuBackend(1);
  std::mt19937 rng(4);
  for (const int sequences : {0, 1, 7, 300}) {
    for (const int per : {1, 2, 4}) {
      const int rows = sequences * per;
      std::vector<int32_t> follows(sequences), newest(sequences), at(sequences), slots(sequences);
      std::vector<int32_t> drafts(size_t(per) * sequences), list(rows);
      for (int s = 0; s < sequences; ++s) {
        follows[s] = int(rng() % (sequences + 1)) - 1;
        newest[s] = int(rng() % 100);
        at[s] = int(rng() % 60);
        slots[s] = int(rng() % 64);
      }
      for (int32_t& draft : drafts) draft = int(rng() % 100) - 3;
      for (int32_t& value : list) value = int(rng() % 100);
      std::vector<SamplingRow> sampling(rows, {.seed = 5, .position = 9, .top_k = 3});
      const auto run = [&](Backend& b, auto up) {
        FollowRowsParams p = {up(follows), up(newest), up(at),      up(drafts), sequences,
                              up(slots),   sequences,  per,         sequences,  up(list),
                              up(list),    up(list),   up(sampling)};
        b.FollowRows(p);
        return p;
      };
      std::vector<std::shared_ptr<void>> copies;
      const auto want = run(*cpu, [&]<typename T>(const std::vector<T>& v) {
        auto copy = std::make_shared<std::vector<T>>(v);
        copies.push_back(copy);
        return copy->data();
      });
      const auto got = run(*gpu_, [&](auto& v) { return Upload(v); });
      for (const auto member : {&FollowRowsParams::tokens, &FollowRowsParams::positions,
                                &FollowRowsParams::row_sequences})
        EXPECT_EQ(Download(got.*member, rows),
                  std::vector<int32_t>(want.*member, want.*member + rows));
      const std::vector<SamplingRow> rows_got = Download(got.sampling, rows);
      for (int r = 0; r < rows; ++r) {
        EXPECT_EQ(rows_got[size_t(r)].position, want.sampling[r].position);
        EXPECT_EQ(rows_got[size_t(r)].top_k, 3);
      }
    }
  }
}

}  // namespace
}  // namespace baleen::kernels
