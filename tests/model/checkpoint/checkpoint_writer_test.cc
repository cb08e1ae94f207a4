#include "model/checkpoint/checkpoint_writer.h"

#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/random_tensors.h"
#include "tests/model/test_checkpoint.h"
#include "tests/testing/status_matchers.h"

namespace baleen::model {
namespace {

using ::baleen::testing::StatusIs;
using ::baleen::testing::TempFolder;
using ::testing::HasSubstr;

class CheckpointWriterTest : public ::testing::Test {
 protected:
  static int Files(const std::string& directory) {
    int files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      files += entry.path().extension() == ".safetensors";
    }
    return files;
  }

  const ModelConfig config_ = testing::PartialBlockConfig();
  RandomTensors tensors_{config_, WholeModel(config_, true), /*seed=*/1};
  TempFolder folder_;
};

TEST_F(CheckpointWriterTest, EveryTensorIsReadBackFromSeveralFiles) {
  BALEEN_ASSERT_OK(WriteCheckpoint(tensors_, tensors_.names(), folder_.path(), 64 << 10));
  EXPECT_GT(Files(folder_.path()), 5);
  auto checkpoint = Checkpoint::Open(folder_.path());
  BALEEN_ASSERT_OK(checkpoint);
  for (const std::string& name : tensors_.names()) {
    const auto wanted = tensors_.Find(name);
    const auto got = checkpoint->Find(name);
    BALEEN_ASSERT_OK(got);
    EXPECT_EQ(got->entry->dtype, wanted->entry->dtype) << name;
    ASSERT_EQ(got->entry->shape, wanted->entry->shape) << name;
    EXPECT_EQ(std::memcmp(got->data, wanted->data, wanted->bytes()), 0) << name;
  }
}

TEST_F(CheckpointWriterTest, ATensorLargerThanAFileHasOneOfItsOwn) {
  BALEEN_ASSERT_OK(WriteCheckpoint(tensors_, tensors_.names(), folder_.path(), 1));
  EXPECT_EQ(Files(folder_.path()), int(tensors_.names().size()));
}

TEST_F(CheckpointWriterTest, NamesWhatIsMissingOrCannotBeWritten) {
  EXPECT_THAT(WriteCheckpoint(tensors_, std::vector<std::string>{"x"}, folder_.path(), 1 << 20),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("x")));
  EXPECT_THAT(WriteCheckpoint(tensors_, tensors_.names(), folder_ / "none", 1 << 20),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("model-00001-of-00001")));
}

}  // namespace
}  // namespace baleen::model
