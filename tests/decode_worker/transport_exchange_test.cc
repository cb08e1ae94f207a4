#include "decode_worker/transport_exchange.h"

#include <algorithm>
#include <random>

#include "decode_worker/direct_ranks.h"
#include "testing/status_matchers.h"

namespace baleen::decode_worker {
namespace {

using baleen::testing::DirectRanks;
using baleen::testing::StatusIs;
using ::testing::HasSubstr;

constexpr int kExperts = 8, kTopk = 3, kDim = 128, kMaxRows = 16;

struct Rows {
  std::vector<float> x;      // [rows, dim]
  std::vector<int32_t> ids;  // [rows, topk], distinct in a row
  int rows = 0;
};

Rows RandomRows(std::mt19937& rng, int rows) {
  Rows r = {.rows = rows};
  std::normal_distribution<float> normal;
  for (int i = 0; i < rows * kDim; ++i) r.x.push_back(normal(rng));
  for (int i = 0; i < rows; ++i) {
    std::vector<int32_t> all(kExperts);
    for (int e = 0; e < kExperts; ++e) all[size_t(e)] = e;
    std::shuffle(all.begin(), all.end(), rng);
    r.ids.insert(r.ids.end(), all.begin(), all.begin() + kTopk);
  }
  return r;
}

// Stands for an expert: any function of row and expert that no other pair gives.
float Expert(float x, int32_t expert) { return x * 1.25f * float(expert + 1) + float(expert); }

std::vector<float> Want(const Rows& r) {
  std::vector<float> out;
  for (int row = 0; row < r.rows; ++row)
    for (int j = 0; j < kTopk; ++j)
      for (int c = 0; c < kDim; ++c)
        out.push_back(Expert(r.x[size_t(row * kDim + c)], r.ids[size_t(row * kTopk + j)]));
  return out;
}

// Dispatch, the experts of this rank, Collect.
std::vector<float> Through(TransportExchange& exchange, int rank, int size, Rows& rows,
                           std::vector<int>* received_rows = nullptr) {
  const kernels::Matrix x = {
      .data = rows.x.data(), .rows = rows.rows, .cols = kDim, .stride = kDim};
  const auto in = exchange.Dispatch(x, {}, rows.ids.data(), kTopk);
  if (received_rows != nullptr) received_rows->push_back(in.rows);
  std::vector<float> out(size_t(in.rows) * kTopk * kDim, -1e30f);
  for (int pair = 0; pair < in.rows * kTopk; ++pair) {
    const int32_t id = in.ids[pair];
    if (id / (kExperts / size) != rank) continue;
    for (int c = 0; c < kDim; ++c)
      out[size_t(pair) * kDim + size_t(c)] = Expert(in.x.row<float>(pair / kTopk)[c], id);
  }
  const kernels::Matrix result =
      exchange.Collect({.data = out.data(), .rows = in.rows * kTopk, .cols = kDim, .stride = kDim});
  const float* begin = result.row<float>(0);
  return {begin, begin + size_t(result.rows) * kDim};
}

TransportExchangeOptions Options() {
  return {.experts = kExperts, .dim = kDim, .topk = kTopk, .max_rows = kMaxRows};
}

class TransportExchangeRanks : public ::testing::TestWithParam<int> {};

TEST_P(TransportExchangeRanks, GivesEveryPairItsExpertsOutputBitForBit) {
  const int size = GetParam();
  DirectRanks ranks(size);
  ranks.Run([&](int rank) {
    auto exchange = TransportExchange::Create(ranks.mesh(rank), Options());
    BALEEN_ASSERT_OK(exchange.status());
    const unsigned seed = 77u + unsigned(rank);
    SCOPED_TRACE(seed);
    std::mt19937 rng(seed);
    for (int layer = 0; layer < 100; ++layer) {
      Rows rows = RandomRows(rng, layer % 5 == rank ? 0 : int(rng() % (kMaxRows + 1)));
      ASSERT_EQ(Through(**exchange, rank, size, rows), Want(rows)) << "layer " << layer;
    }
  });
}

TEST_P(TransportExchangeRanks, RowsWithoutALocalExpertDoNotTravel) {
  const int size = GetParam();
  DirectRanks ranks(size);
  ranks.Run([&](int rank) {
    auto exchange = TransportExchange::Create(ranks.mesh(rank), Options());
    BALEEN_ASSERT_OK(exchange.status());
    std::mt19937 rng(5);
    Rows rows = RandomRows(rng, 4);
    std::fill(rows.ids.begin(), rows.ids.end(), 0);  // everything is at rank 0
    std::vector<int> received;
    ASSERT_EQ(Through(**exchange, rank, size, rows, &received), Want(rows));
    EXPECT_EQ(received[0], rank == 0 ? 4 * size : 0);
  });
}

TEST_P(TransportExchangeRanks, Fp8RowsKeepTheirBytesAndScales) {
  const int size = GetParam();
  DirectRanks ranks(size);
  ranks.Run([&](int rank) {
    TransportExchangeOptions options = Options();
    options.activations = DType::kBf16;
    auto exchange = TransportExchange::Create(ranks.mesh(rank), options);
    BALEEN_ASSERT_OK(exchange.status());
    std::vector<uint8_t> q(2 * kDim);
    for (size_t i = 0; i < q.size(); ++i) q[i] = uint8_t(i * 3 + size_t(rank));
    std::vector<float> scales = {float(rank), float(rank) + 0.5f};
    std::vector<int32_t> ids = {0, 3, 6, 1, 4, 7};
    const kernels::Matrix x = {.dtype = DType::kBf16, .rows = 2, .cols = kDim, .stride = kDim};
    const auto in = (*exchange)->Dispatch(
        x, {.data = q.data(), .scales = scales.data(), .rows = 2, .cols = kDim}, ids.data(), kTopk);
    // Each rank holds an expert of both rows (or of one, when it has a quarter of them).
    const int each = in.rows / size;
    ASSERT_GE(each, 1);
    for (int source = 0, row = 0; source < size; ++source) {
      for (int i = 0; i < each; ++i, ++row) {
        const bool second = in.ids[row * kTopk] == 1;
        EXPECT_EQ(in.xq.scales[row], float(source) + (second ? 0.5f : 0.f));
        for (int c = 0; c < kDim; ++c)
          ASSERT_EQ(in.xq.data[row * kDim + c],
                    uint8_t((size_t(c) + (second ? kDim : 0)) * 3 + size_t(source)));
      }
    }
    std::vector<uint16_t> out(size_t(in.rows) * kTopk * kDim, uint16_t(rank + 1));
    const auto result = (*exchange)->Collect({.data = out.data(),
                                              .dtype = DType::kBf16,
                                              .rows = in.rows * kTopk,
                                              .cols = kDim,
                                              .stride = kDim});
    for (int pair = 0; pair < 2 * kTopk; ++pair)
      EXPECT_EQ(result.row<uint16_t>(pair)[5], ids[size_t(pair)] / (kExperts / size) + 1);
  });
}

INSTANTIATE_TEST_SUITE_P(RankCounts, TransportExchangeRanks, ::testing::Values(1, 2, 4));

TEST(TransportExchange, GivesNoRowsAndZerosOnceARankIsMissing) {
  DirectRanks ranks(2, std::chrono::milliseconds(50));
  auto exchange = TransportExchange::Create(ranks.mesh(0), Options());
  BALEEN_ASSERT_OK(exchange.status());
  std::mt19937 rng(1);
  Rows rows = RandomRows(rng, 3);
  std::vector<int> received;
  EXPECT_EQ(Through(**exchange, 0, 2, rows, &received), std::vector<float>(3 * kTopk * kDim, 0.f));
  EXPECT_EQ(received[0], 0);
  EXPECT_THAT(ranks.failure(0), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank 1")));
}

TEST(TransportExchange, RefusesAnAnswerOfAnotherShape) {
  DirectRanks ranks(2);
  ranks.Run([&](int rank) {
    if (rank == 1) {
      std::vector<RankMesh::Outgoing> to(2);
      to[0].words = {3, kTopk, kDim * 4, 0};  // says three rows, carries none
      BALEEN_ASSERT_OK(ranks.mesh(1).Exchange(RankMesh::Kind::kDispatch, to));
      return;
    }
    auto exchange = TransportExchange::Create(ranks.mesh(0), Options());
    std::mt19937 rng(1);
    Rows rows = RandomRows(rng, 2);
    Through(**exchange, 0, 2, rows);
    EXPECT_THAT(ranks.failure(0),
                StatusIs(absl::StatusCode::kInternal, HasSubstr("rank 1 sent 3")));
  });
}

TEST(TransportExchange, RanksMustDivideTheExperts) {
  DirectRanks ranks(3);
  EXPECT_THAT(TransportExchange::Create(ranks.mesh(0), Options()).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("8 experts")));
}

}  // namespace
}  // namespace baleen::decode_worker
