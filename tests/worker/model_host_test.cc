#include "worker/model_host.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "common/fingerprint.h"
#include "model/config.h"
#include "proto/config.pb.h"
#include "testing/status_matchers.h"

namespace baleen::worker {
namespace {

using baleen::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Split = ModelHost::Split;

const std::string kTiny = std::string(BALEEN_SOURCE_DIR) + "/models/tiny-dsv32";

ModelOptions Options(int drafts = 1) {
  return {.directory = kTiny, .device = "cpu", .drafts = drafts, .pages = 300};
}

const ForwardLimits kLimits{.max_rows = 64, .max_sequences = 4, .max_head_rows = 4};

v1::WorkerConfig Config() {
  v1::WorkerConfig config;
  config.set_model(kTiny);
  return config;
}

TEST(ModelOptions, DefaultsAreExactOnTheCpuWithOneDraft) {
  const auto options = ModelOptionsFrom(Config());
  BALEEN_ASSERT_OK(options);
  EXPECT_EQ(options->device, "cpu");
  EXPECT_EQ(options->numerics, Numerics::kExact);
  EXPECT_EQ(options->drafts, 1);
  EXPECT_EQ(options->cpu_threads, 1);
}

TEST(ModelOptions, BadValuesNameTheField) {
  const auto error = [](auto change) {
    v1::WorkerConfig config = Config();
    change(config);
    return std::string(ModelOptionsFrom(config).status().message());
  };
  EXPECT_THAT(error([](auto& c) { c.clear_model(); }), HasSubstr("worker.model"));
  EXPECT_THAT(error([](auto& c) { c.set_device("tpu"); }), HasSubstr("worker.device: \"tpu\""));
  EXPECT_THAT(error([](auto& c) { c.set_numerics("int4"); }), HasSubstr("worker.numerics"));
  EXPECT_THAT(error([](auto& c) { c.set_drafts(4); }), HasSubstr("worker.drafts: 4"));
  EXPECT_THAT(error([](auto& c) { c.set_pages(-1); }), HasSubstr("worker.pages"));
  EXPECT_THAT(error([](auto& c) { c.set_memory_fraction(1.5); }),
              HasSubstr("worker.memory_fraction: 1.5"));
  EXPECT_THAT(error([](auto& c) { c.set_cpu_threads(0); }), HasSubstr("worker.cpu_threads"));
  EXPECT_THAT(error([](auto& c) {
                c.set_peer_memory("ucx");
                c.set_transport("shm");
              }),
              HasSubstr("worker.transport: \"shm\""));
  EXPECT_THAT(error([](auto& c) { c.set_peer_memory("mail"); }),
              HasSubstr("worker.peer_memory: \"mail\""));
}

TEST(ModelOptions, ThePeersOfADeviceAreMappedUnlessItIsSaidOtherwise) {
  for (const auto& [way, maps] : {std::pair{"", true}, std::pair{"cuda_ipc", true},
                                  std::pair{"ucx", false}, std::pair{"host", false}}) {
    v1::WorkerConfig config = Config();
    config.set_peer_memory(way);
    const auto options = ModelOptionsFrom(config);
    BALEEN_ASSERT_OK(options);
    EXPECT_EQ(options->MapsPeers(), maps) << way;
  }
}

TEST(ModelHost, StagesTileTheWholePageWithoutGaps) {
  size_t end = 0;
  for (int stage = 0; stage < 4; ++stage) {
    const auto host = ModelHost::Create(Options(), Split::kPipelineStage, stage, 4, kLimits);
    BALEEN_ASSERT_OK(host);
    EXPECT_EQ((*host)->pool_view().page_offset, end);
    end += (*host)->layout().PageBytes();
    EXPECT_LE(end, (*host)->whole_layout().PageBytes());
    if (stage == 3) {
      EXPECT_EQ(end, (*host)->whole_layout().PageBytes());
    }
  }
}

TEST(ModelHost, EveryProcessOfAClusterHasTheSameFingerprint) {
  const auto stage = ModelHost::Create(Options(), Split::kPipelineStage, 1, 2, kLimits);
  const auto rank = ModelHost::Create(Options(), Split::kExpertRank, 0, 4, kLimits);
  BALEEN_ASSERT_OK(stage);
  BALEEN_ASSERT_OK(rank);
  EXPECT_EQ(FirstDifference((*stage)->fingerprint(), (*rank)->fingerprint()), std::nullopt);
  const auto other = ModelHost::Create(Options(/*drafts=*/0), Split::kExpertRank, 0, 4, kLimits);
  BALEEN_ASSERT_OK(other);
  EXPECT_THAT(*FirstDifference((*rank)->fingerprint(), (*other)->fingerprint()),
              HasSubstr("cached_layers: 5 here, 4 there"));
}

TEST(ModelHost, ShapesThatCannotBeNameTheField) {
  const auto error = [](Split split, int index, int size) {
    return std::string(
        ModelHost::Create(Options(), split, index, size, kLimits).status().message());
  };
  EXPECT_THAT(error(Split::kPipelineStage, 0, 5), HasSubstr("worker.size: 5 stages for 4 layers"));
  EXPECT_THAT(error(Split::kExpertRank, 0, 3), HasSubstr("worker.size: 3 ranks do not divide 16"));
  EXPECT_THAT(error(Split::kExpertRank, 2, 2), HasSubstr("worker.index: 2"));
}

TEST(ModelHost, ACheckpointThatIsNotThereAndTooLongAContextAreClearErrors) {
  ModelOptions missing = Options();
  missing.directory = "/nonexistent";
  EXPECT_THAT(ModelHost::Create(missing, Split::kExpertRank, 0, 1, kLimits),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nonexistent")));
  ModelOptions longer = Options();
  longer.max_context = 20000;
  EXPECT_THAT(ModelHost::Create(longer, Split::kExpertRank, 0, 1, kLimits),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("worker.max_context: 20000")));
}

TEST(ModelHost, PagesThatCannotFitNameBytesWantedAndFree) {
  ModelOptions options = Options();
  options.pages = 2'000'000'000;
  EXPECT_THAT(ModelHost::Create(options, Split::kExpertRank, 0, 1, kLimits),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("page pool: 2000000000 pages, as configured, need "),
                             HasSubstr(" are available; memory of cpu: "), HasSubstr(" free; "))));
}

TEST(ModelHost, PagesOfACpuGoByHostMemoryAndNothingElse) {
  ModelOptions options = Options();
  options.peer_memory = "host";
  const auto host = ModelHost::Create(options, Split::kExpertRank, 0, 1, kLimits);
  BALEEN_ASSERT_OK(host);
  EXPECT_EQ((*host)->peer_memory(), nullptr);
  EXPECT_EQ((*host)->pool_view().memory, kv_transfer::MemoryKind::kHost);
  for (const std::string way : {"cuda_ipc", "ucx"}) {
    options.peer_memory = way;
    EXPECT_THAT(
        ModelHost::Create(options, Split::kExpertRank, 0, 1, kLimits),
        StatusIs(absl::StatusCode::kFailedPrecondition,
                 HasSubstr("worker.peer_memory: " + way + ": memory of cpu is not shared")));
  }
}

TEST(ModelHost, TheForwardPassIsBuiltOverItsOwnExpertsWithoutAnExchange) {
  auto host = ModelHost::Create(Options(), Split::kPipelineStage, 0, 1, kLimits);
  BALEEN_ASSERT_OK(host);
  BALEEN_EXPECT_OK((*host)->BuildForward(nullptr));
}

TEST(ModelHost, CudaWithoutItsBackendOrAGpuIsAClearError) {
  ModelOptions options = Options();
  options.device = "cuda";
  EXPECT_THAT(ModelHost::Create(options, Split::kExpertRank, 0, 1, kLimits),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("CUDA")));
}

}  // namespace
}  // namespace baleen::worker
