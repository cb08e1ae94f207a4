#include "kernels/cuda/cuda_backend.h"

#include <cstring>

#include "kernels/cuda/parity.h"

namespace baleen::kernels {
namespace {

using testing::GpuTest;

class CudaBackendTest : public GpuTest {};

TEST_F(CudaBackendTest, NamesADeviceThatIsNotThere) {
  const auto refused = MakeCudaBackend(/*device=*/99);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.status().message().find("device 99 asked for"), absl::string_view::npos)
      << refused.status().ToString();
}

TEST_F(CudaBackendTest, HostMemoryMayBeWrittenOnceItsCopiesHaveBeenWaitedFor) {
  constexpr size_t kBytes = size_t{8} << 20, kHalf = kBytes / 2;
  auto* device = Poisoned<char>(2 * kBytes);
  auto* const host = static_cast<char*>(gpu_->AllocateHost(kBytes));
  ASSERT_NE(host, nullptr);
  gpu_->WaitFor(gpu_->Mark());  // for nothing
  for (int round = 0; round < 2; ++round) {
    std::memset(host, 1 + round, kBytes);
    gpu_->CopyIn(device + round * kBytes, host, kHalf);
    gpu_->CopyIn(device + round * kBytes + kHalf, host + kHalf, kHalf);
    gpu_->WaitFor(gpu_->Mark());
  }
  std::memset(host, 9, kBytes);
  std::vector<char> want(kBytes, 1);
  want.resize(2 * kBytes, 2);
  EXPECT_EQ(Download(device, 2 * kBytes), want);
  gpu_->FreeHost(host);
}

// What a bad kernel leaves behind: every call of this process fails from there on. The child has
// its own device context, as the style asks: it runs this test again from the start.
TEST_F(CudaBackendTest, AStickyErrorEndsTheProcessInOneLine) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const int32_t* index = Upload(std::vector<int32_t>{0});
  float* out = Poisoned<float>(64);
  auto* nowhere = reinterpret_cast<float*>(uintptr_t{1} << 46);
  const auto break_device = [&] {
    gpu_->GatherRows({.x = {nowhere, DType::kF32, 1, 64, 64},
                      .index = index,
                      .out = {out, DType::kF32, 1, 64, 64}});
    gpu_->Synchronize();
  };
  EXPECT_EXIT(break_device(), ::testing::ExitedWithCode(1),
              "cuda_backend\\.cc:[0-9]+: CUDA error 700 \\(cudaErrorIllegalAddress\\) of "
              "cudaStreamSynchronize\\(stream_\\): [^\n]*illegal memory access[^\n]*\n$");
  gpu_->Synchronize();  // this process's device is as good as before
}

TEST_F(CudaBackendTest, CopiesInTheOrderOfTheStream) {
  const std::vector<int32_t> first(1000, 1), second(1000, 2);
  int32_t* device = Poisoned<int32_t>(1000);
  std::vector<int32_t> got(1000);
  gpu_->CopyIn(device, first.data(), 4000);
  gpu_->CopyIn(device, second.data(), 4000);
  gpu_->CopyOut(got.data(), device, 4000);
  gpu_->Synchronize();
  EXPECT_EQ(got, second);
}

TEST_F(CudaBackendTest, TooMuchMemoryIsNullAndNothingElseBreaks) {
  const Backend::Memory memory = gpu_->memory();
  EXPECT_GT(memory.total, size_t{1} << 30);
  EXPECT_LE(memory.free, memory.total);
  EXPECT_EQ(gpu_->Allocate(memory.total * 2), nullptr);
  void* p = gpu_->Allocate(0);
  EXPECT_NE(p, nullptr);
  gpu_->Free(p);
  gpu_->Synchronize();
}

TEST_F(CudaBackendTest, ScratchGrowsWithTheLimits) {
  StepLimits small = {.rows = 1,
                      .expert_rows = 1,
                      .experts = 1,
                      .experts_per_row = 1,
                      .expert_width = 128,
                      .head_rows = 1};
  StepLimits large = small;
  large.expert_rows = large.rows = 4096;
  large.experts_per_row = 8;
  EXPECT_LT(gpu_->ScratchBytes(small), gpu_->ScratchBytes(large));
}

}  // namespace
}  // namespace baleen::kernels
