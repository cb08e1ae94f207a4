#include "prefill_worker/hand_over_ledger.h"

#include <gtest/gtest.h>

#include <vector>

namespace baleen::prefill_worker {
namespace {

using Kind = StageReport::Kind;

class HandOverLedgerTest : public ::testing::Test {
 protected:
  std::vector<StageReport> reports_;
  HandOverLedger ledger_{2, [this](StageReport r) { reports_.push_back(std::move(r)); }};
};

TEST_F(HandOverLedgerTest, EndsWhenComputedAndThenReleased) {
  ledger_.Begin({7});
  ledger_.ComputeOver({7});
  EXPECT_TRUE(reports_.empty());
  ledger_.Closed({7}, absl::OkStatus());
  ASSERT_EQ(reports_.size(), 1u);
  EXPECT_EQ(reports_[0].kind, Kind::kEnded);
  EXPECT_EQ(reports_[0].stage, 2);
  EXPECT_TRUE(reports_[0].status.ok());
}

TEST_F(HandOverLedgerTest, AHandOverThatBreaksWhileComputingFailsAtOnceAndEndsLater) {
  ledger_.Begin({7});
  ledger_.Closed({7}, absl::UnavailableError("link gone"));
  ASSERT_EQ(reports_.size(), 1u);
  EXPECT_EQ(reports_[0].kind, Kind::kFailed);
  ledger_.ComputeOver({7});
  ASSERT_EQ(reports_.size(), 2u);
  EXPECT_EQ(reports_[1].kind, Kind::kEnded);
  EXPECT_EQ(reports_[1].status, absl::UnavailableError("link gone"));
}

TEST_F(HandOverLedgerTest, EndsOnlyOnce) {
  ledger_.Begin({7});
  ledger_.ComputeOver({7});
  ledger_.Closed({7}, absl::OkStatus());
  ledger_.Closed({7}, absl::OkStatus());
  ledger_.ComputeOver({7});
  EXPECT_EQ(reports_.size(), 1u);
}

TEST_F(HandOverLedgerTest, AReleaseBeforeThePromptsEndIsAnError) {
  ledger_.Begin({7});
  ledger_.Closed({7}, absl::OkStatus());
  ASSERT_EQ(reports_.size(), 1u);
  EXPECT_EQ(reports_[0].kind, Kind::kFailed);
  EXPECT_FALSE(reports_[0].status.ok());
}

}  // namespace
}  // namespace baleen::prefill_worker
