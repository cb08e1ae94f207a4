#include "model/checkpoint/identity.h"

#include <gtest/gtest.h>

#include "model/test_checkpoint.h"
#include "testing/status_matchers.h"

namespace baleen::model {
namespace {

using baleen::testing::StatusIs;
using baleen::testing::TempFolder;
using ::testing::HasSubstr;

void Write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string Bytes(size_t count) {
  std::string bytes(count, '\0');
  std::mt19937 rng(5);
  for (char& c : bytes) c = static_cast<char>(rng());
  return bytes;
}

std::string Identity(const TempFolder& folder) {
  const auto identity = CheckpointIdentity(folder.path());
  BALEEN_EXPECT_OK(identity);
  return identity.value_or("");
}

TEST(CheckpointIdentity, ACopyIsTheSameAndOtherFilesDoNotMatter) {
  const TempFolder a, b;
  for (const TempFolder* folder : {&a, &b}) {
    Write(*folder / "model-1.safetensors", Bytes(1 << 20));
    Write(*folder / "model-2.safetensors", Bytes(100));
  }
  Write(b / "README.md", "notes");
  EXPECT_EQ(Identity(a), Identity(b));
  EXPECT_EQ(Identity(a).size(), 16u);
}

TEST(CheckpointIdentity, OtherWeightsOfTheSameShapesAreSeen) {
  const TempFolder a, b;
  std::string bytes = Bytes(1 << 20);
  Write(a / "model.safetensors", bytes);
  // As a fine-tune: the head stays, everything behind it changes a little.
  for (size_t i = 70'000; i < bytes.size(); i += 512) bytes[i] ^= 1;
  Write(b / "model.safetensors", bytes);
  EXPECT_NE(Identity(a), Identity(b));
}

TEST(CheckpointIdentity, NamesSizesHeadsAndTheEndCount) {
  const std::string bytes = Bytes(300'000);
  const TempFolder original;
  Write(original / "model.safetensors", bytes);
  const std::string identity = Identity(original);
  const auto changed = [&](const std::string& name, std::string other) {
    const TempFolder folder;
    Write(folder / name, other);
    return Identity(folder);
  };
  EXPECT_NE(changed("other.safetensors", bytes), identity);
  EXPECT_NE(changed("model.safetensors", bytes + "x"), identity);
  std::string head = bytes, end = bytes;
  head[10] ^= 1;
  end.back() ^= 1;
  EXPECT_NE(changed("model.safetensors", head), identity);
  EXPECT_NE(changed("model.safetensors", end), identity);
  EXPECT_EQ(changed("model.safetensors", bytes), identity);
}

TEST(CheckpointIdentity, SmallAndEmptyFilesAreFine) {
  const TempFolder folder;
  Write(folder / "a.safetensors", "");
  Write(folder / "b.safetensors", "x");
  EXPECT_EQ(Identity(folder).size(), 16u);
}

TEST(CheckpointIdentity, AFolderWithoutWeightsIsNamed) {
  const TempFolder folder;
  EXPECT_THAT(CheckpointIdentity(folder.path()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(folder.path())));
}

}  // namespace
}  // namespace baleen::model
