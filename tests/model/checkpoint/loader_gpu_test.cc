// Loading onto a GPU. Without one these tests fail; they never skip.
#include <cstring>
#include <vector>

#include "model/checkpoint/loader.h"
#include "model/checkpoint/random_tensors.h"
#include "tests/model/memory_backend.h"
#include "tests/model/test_checkpoint.h"
#include "tests/testing/status_matchers.h"

namespace baleen::model {
namespace {

using ::baleen::testing::MemoryBackend;
using ::baleen::testing::StatusIs;
using kernels::Backend;
using ::testing::AllOf;
using ::testing::HasSubstr;

class LoaderGpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto gpu = kernels::MakeCudaBackend(/*device=*/0);
    BALEEN_ASSERT_OK(gpu);
    gpu_ = *std::move(gpu);
  }

  const ModelConfig config_ = testing::GaplessConfig();
  const Shard shard_ = ExpertRank(config_, /*mtp=*/false, 3, 16);
  RandomTensors tensors_{config_, shard_, /*seed=*/5};
  std::unique_ptr<Backend> gpu_;
};

TEST_F(LoaderGpuTest, TheDeviceHasTheBytesOfTheHost) {
  MemoryBackend host(kernels::WeightStorage::kNative);
  const auto want = LoadWeights(host, tensors_, config_, shard_);
  const auto got = LoadWeights(*gpu_, tensors_, config_, shard_);
  BALEEN_ASSERT_OK(want);
  BALEEN_ASSERT_OK(got);
  ASSERT_EQ((*got)->memory.bytes(), (*want)->memory.bytes());
  std::vector<std::byte> bytes((*got)->memory.bytes());
  gpu_->CopyOut(bytes.data(), (*got)->memory.data(), bytes.size());
  gpu_->Synchronize();
  EXPECT_EQ(std::memcmp(bytes.data(), (*want)->memory.data(), bytes.size()), 0);
}

TEST_F(LoaderGpuTest, AFullDeviceIsResourceExhaustedWithWhatIsFree) {
  constexpr size_t kLeft = 100u << 20;  // fewer than the weights are
  const DeviceBlock taken(*gpu_, gpu_->memory().free - kLeft);
  ASSERT_NE(taken.data(), nullptr);
  EXPECT_THAT(
      LoadWeights(*gpu_, tensors_, config_, shard_),
      StatusIs(absl::StatusCode::kResourceExhausted,
               AllOf(HasSubstr("the weights want "),
                     HasSubstr(" bytes of the cuda backend's memory, "), HasSubstr(" are free"))));
  gpu_->Synchronize();  // no error is left behind
}

}  // namespace
}  // namespace baleen::model
