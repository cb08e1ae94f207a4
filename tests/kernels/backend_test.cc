#include "kernels/backend.h"

#include <cstdint>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/testing.h"
#include "testing/status_matchers.h"

namespace baleen::kernels {
namespace {

TEST(Backend, CpuMemoryIsAlignedAndCopied) {
  const std::unique_ptr<Backend> backend = MakeCpuBackend(1);
  EXPECT_STREQ(backend->name(), "cpu");
  EXPECT_EQ(backend->weight_storage(), WeightStorage::kDequantized);
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{64}, size_t{1000}}) {
    void* p = backend->Allocate(bytes);
    ASSERT_NE(p, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 64, 0u);
    const std::string text(bytes, 'x');
    std::string back(bytes, '-');
    backend->CopyIn(p, text.data(), bytes);
    backend->CopyOut(back.data(), p, bytes);
    backend->Synchronize();
    EXPECT_EQ(back, text);
    backend->Free(p);
  }
}

TEST(Backend, ADeviceIsNamed) {
  EXPECT_EQ(*GpuOf("cpu"), std::nullopt);
  EXPECT_EQ(*GpuOf("cuda"), 0);
  EXPECT_EQ(*GpuOf("cuda:7"), 7);
  for (const char* name : {"", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda1", "cpu:0"})
    EXPECT_THAT(MakeBackend(name, 1),
                baleen::testing::StatusIs(absl::StatusCode::kInvalidArgument,
                                          ::testing::HasSubstr(absl::StrCat("\"", name, "\""))));
}

#if !defined(BALEEN_CUDA)
TEST(Backend, CudaSaysHowToGetIt) {
  EXPECT_THAT(MakeCudaBackend(0), baleen::testing::StatusIs(absl::StatusCode::kFailedPrecondition,
                                                            ::testing::HasSubstr("BALEEN_CUDA")));
}
#endif

}  // namespace
}  // namespace baleen::kernels
