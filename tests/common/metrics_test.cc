#include "common/metrics.h"

#include <gmock/gmock.h>

#include "testing/status_matchers.h"

namespace baleen {
namespace {

using ::testing::HasSubstr;

TEST(Metrics, SerialisesWithPrefixAndLabels) {
  Metrics metrics;
  metrics.Counter("pages_sent_total", "Pages.", {{"wire", "tcp"}}).Increment(3);
  metrics.Seconds("step_seconds", "Step time.").Observe(0.002);
  EXPECT_THAT(metrics.Serialize(), HasSubstr("baleen_pages_sent_total{wire=\"tcp\"} 3"));
  EXPECT_THAT(metrics.Serialize(), HasSubstr("baleen_step_seconds_count 1"));
}

TEST(Metrics, TheSameNameAndLabelsAreTheSameObject) {
  Metrics metrics;
  EXPECT_EQ(&metrics.Counter("a", "A."), &metrics.Counter("a", "A."));
  EXPECT_NE(&metrics.Counter("a", "A."), &metrics.Counter("a", "A.", {{"x", "1"}}));
}

TEST(MetricsServer, APortInUseIsAClearError) {
  Metrics metrics;
  auto first = MetricsServer::Create(metrics, "127.0.0.1", 0);
  BALEEN_ASSERT_OK(first);
  EXPECT_GT((*first)->port(), 0);
  EXPECT_THAT(MetricsServer::Create(metrics, "127.0.0.1", (*first)->port()),
              testing::StatusIs(absl::StatusCode::kUnavailable, HasSubstr("metrics_port")));
}

}  // namespace
}  // namespace baleen
