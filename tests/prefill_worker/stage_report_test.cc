#include "prefill_worker/stage_report.h"

#include <gtest/gtest.h>

namespace baleen::prefill_worker {
namespace {

TEST(StageReport, ReadsBackWhatWasWritten) {
  const StageReport report{.kind = StageReport::Kind::kFailed,
                           .stage = 3,
                           .batch = 8,
                           .attempt = {5},
                           .status = absl::UnavailableError("link gone")};
  const auto read = DecodeStageReport(Encode(report));
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->kind, report.kind);
  EXPECT_EQ(read->stage, 3);
  EXPECT_EQ(read->batch, 8u);
  EXPECT_EQ(read->attempt, report.attempt);
  EXPECT_EQ(read->status, report.status);
}

TEST(StageReport, TruncationsAndUnknownKindsAreRefused) {
  auto bytes = Encode(StageReport{.status = absl::InternalError("x")});
  for (size_t n = 0; n < bytes.size(); ++n)
    EXPECT_FALSE(DecodeStageReport(std::span(bytes).first(n)).ok()) << n;
  bytes[0] = std::byte{9};
  EXPECT_FALSE(DecodeStageReport(bytes).ok());
}

}  // namespace
}  // namespace baleen::prefill_worker
