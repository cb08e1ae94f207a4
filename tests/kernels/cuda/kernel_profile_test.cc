#include "kernels/cuda/kernel_profile.h"

#include "kernels/cuda/parity.h"

namespace baleen::kernels::cuda {
namespace {

class KernelProfileTest : public testing::GpuTest {};

TEST(KernelName, IsCutToWhatTellsKernelsApart) {
  EXPECT_EQ(ReadableKernelName("_ZN6baleen7kernels4cuda12_GLOBAL__N_110GateKernelILi4EEEvPKfi"),
            "GateKernel<4>");
  EXPECT_EQ(ReadableKernelName("_ZN6baleen7kernels4cuda11RopeKernelsEPf"), "RopeKernels");
  EXPECT_EQ(ReadableKernelName("no name of C++"), "no name of C++");
}

TEST_F(KernelProfileTest, CountsLaunchesAndCopiesOfEachRun) {
  const std::vector<float> ones(256, 1.0f);
  const float* weight = Upload(ones);
  const Matrix x = {Poisoned<uint16_t>(256), DType::kBf16, 1, 256, 256};
  for (const int launches : {3, 2}) {
    const auto totals = ProfileKernels([&] {
      for (int i = 0; i < launches; ++i) {
        gpu_->AddRmsNorm({.x = x, .weight = weight, .out = x, .eps = 1e-6f});
      }
      gpu_->CopyIn(x.data, ones.data(), 512);
      gpu_->Synchronize();
    });
    ASSERT_TRUE(totals.ok()) << totals.status().ToString();
    ASSERT_EQ(totals->size(), 2u);
    int seen = 0;
    for (const KernelTotal& total : *totals) {
      EXPECT_EQ(total.launch, total.name != "copy in") << total.name;
      seen += total.launch ? total.count : 0;
      EXPECT_GT(total.microseconds, 0);
    }
    EXPECT_EQ(seen, launches);
  }
}

}  // namespace
}  // namespace baleen::kernels::cuda
