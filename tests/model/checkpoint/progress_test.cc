#include "model/checkpoint/progress.h"

#include "gmock/gmock.h"
#include "tests/testing/fake_clock.h"

namespace baleen::model {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::SizeIs;

class ProgressTest : public ::testing::Test {
 protected:
  Progress Make(uint64_t total, bool terminal) {
    return Progress("weights", total, terminal, clock_,
                    [this](const std::string& line, bool) { lines_.push_back(line); });
  }

  testing::FakeClock clock_;
  std::vector<std::string> lines_;
};

TEST_F(ProgressTest, PrintsALineEveryFivePercentWithRateAndTimeLeft) {
  Progress progress = Make(1'000'000'000, /*terminal=*/false);
  for (int i = 0; i < 100; ++i) {
    clock_.Advance(seconds(1));
    progress.Add(10'000'000);
  }
  ASSERT_THAT(lines_, SizeIs(20));
  EXPECT_EQ(lines_[0], "weights: 5 % of 1.00 GB, 10.0 MB/s, 95 s left");
  EXPECT_EQ(lines_[19], "weights: 100 % of 1.00 GB, 10.0 MB/s, 100.0 s");
}

TEST_F(ProgressTest, AShortLoadPrintsOnlyItsLastLine) {
  Progress progress = Make(20'000'000, /*terminal=*/false);
  for (int i = 0; i < 20; ++i) {
    clock_.Advance(milliseconds(10));
    progress.Add(1'000'000);
  }
  EXPECT_THAT(lines_, ElementsAre("weights: 100 % of 20.0 MB, 100.0 MB/s, 0.2 s"));
}

TEST_F(ProgressTest, ATerminalSeesEveryPercentButNotEveryTensor) {
  Progress progress = Make(1'000'000, /*terminal=*/true);
  for (int i = 0; i < 1000; ++i) {
    clock_.Advance(milliseconds(200));
    progress.Add(1000);
  }
  EXPECT_THAT(lines_, SizeIs(100));
}

}  // namespace
}  // namespace baleen::model
