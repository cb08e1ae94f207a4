// What is wrong with a library shows without a GPU.
#include "kernels/cuda/nccl_library.h"

#include "testing/status_matchers.h"

namespace baleen::kernels::cuda {
namespace {

using ::baleen::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(NcclLibrary, AMissingOneIsNamed) {
  EXPECT_THAT(LoadNccl("libnccl-of-nowhere.so.2"),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("NCCL"), HasSubstr("libnccl-of-nowhere.so.2"))));
}

TEST(NcclLibrary, AnotherLibraryIsNamedWithWhatItLacks) {
  EXPECT_THAT(LoadNccl("libm.so.6"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("libm.so.6 has no nccl")));
}

TEST(NcclLibrary, AnOldOneIsNamedWithItsVersion) {
  EXPECT_THAT(LoadNccl(OLD_NCCL), StatusIs(absl::StatusCode::kFailedPrecondition,
                                           AllOf(HasSubstr(OLD_NCCL), HasSubstr("version 2.19.3"),
                                                 HasSubstr("at least 2.27.0"))));
}

}  // namespace
}  // namespace baleen::kernels::cuda
