#include "kernels/gpu_facts.h"

#include "testing/status_matchers.h"

namespace baleen::kernels {
namespace {

using ::baleen::testing::StatusIs;
using ::testing::Eq;
using ::testing::HasSubstr;

GpuFacts TwoGpus() {
  return {.driver_version = 13000, .runtime_version = 13000, .visible = 2, .installed = 2};
}

// The whole message, for these are what an operator reads.
auto Says(const std::string& message) {
  return StatusIs(absl::StatusCode::kFailedPrecondition, Eq(message));
}

TEST(GpuFacts, EveryVisibleDeviceIsAccepted) {
  BALEEN_EXPECT_OK(CheckGpuFacts(TwoGpus(), 0));
  BALEEN_EXPECT_OK(CheckGpuFacts(TwoGpus(), 1));
}

TEST(GpuFacts, ADriverOfTheSameMajorVersionIsEnough) {
  GpuFacts facts = TwoGpus();
  facts.runtime_version = 13020;
  BALEEN_EXPECT_OK(CheckGpuFacts(facts, 0));
  facts.driver_version = 14010;
  BALEEN_EXPECT_OK(CheckGpuFacts(facts, 0));
}

TEST(GpuFacts, AnOldDriverIsNamedWithWhatIsWanted) {
  GpuFacts facts = TwoGpus();
  facts.driver_version = 12090;
  facts.error = "CUDA driver version is insufficient for CUDA runtime version";
  EXPECT_THAT(CheckGpuFacts(facts, 0), Says("cuda: the driver is too old: it runs CUDA up to 12.9, "
                                            "this binary needs 13.0"));
}

TEST(GpuFacts, AMissingDriverIsNoOldOne) {
  EXPECT_THAT(CheckGpuFacts({.runtime_version = 13000, .error = "insufficient"}, 0),
              Says("cuda: no NVIDIA driver (libcuda.so.1) is here; this binary needs one for CUDA "
                   "13.0"));
}

TEST(GpuFacts, NoVisibleGpuQuotesWhatHidesThem) {
  GpuFacts facts = TwoGpus();
  facts.visible = 0;
  EXPECT_THAT(CheckGpuFacts(facts, 0), Says("cuda: no GPU is visible; the driver has 2"));
  facts.visible_devices = "7";
  EXPECT_THAT(CheckGpuFacts(facts, 0), Says("cuda: CUDA_VISIBLE_DEVICES=\"7\": no GPU is visible; "
                                            "the driver has 2"));
  facts.visible_devices = "";
  facts.installed = -1;
  EXPECT_THAT(CheckGpuFacts(facts, 0), Says("cuda: CUDA_VISIBLE_DEVICES=\"\": no GPU is visible"));
}

TEST(GpuFacts, AnotherErrorIsPassedOn) {
  GpuFacts facts = TwoGpus();
  facts.visible = 0;
  facts.error = "system not yet initialized";
  EXPECT_THAT(CheckGpuFacts(facts, 0),
              Says("cuda: the GPUs cannot be used: system not yet initialized; the driver has 2"));
}

TEST(GpuFacts, ADeviceBeyondTheVisibleOnesIsNamed) {
  GpuFacts facts = TwoGpus();
  facts.visible = 1;
  facts.visible_devices = "0";
  EXPECT_THAT(CheckGpuFacts(facts, 1), Says("cuda: CUDA_VISIBLE_DEVICES=\"0\": device 1 asked for, "
                                            "1 visible; the driver has 2"));
  EXPECT_THAT(CheckGpuFacts(facts, -1),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("device -1 asked for")));
}

TEST(GpuFacts, OnlyHopperIsAccepted) {
  BALEEN_EXPECT_OK(CheckCapability(0, "H100", 9, 0));
  EXPECT_FALSE(CheckCapability(0, "other", 8, 9).ok());
  EXPECT_FALSE(CheckCapability(0, "other", 9, 1).ok());
  EXPECT_FALSE(CheckCapability(0, "other", 10, 0).ok());
  EXPECT_THAT(CheckCapability(1, "NVIDIA A100", 8, 0),
              Says("cuda: device 1 (NVIDIA A100) has compute capability 8.0, the kernels are for "
                   "9.0 (Hopper)"));
}

}  // namespace
}  // namespace baleen::kernels
