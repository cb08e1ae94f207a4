#include "model/checkpoint/checkpoint.h"

#include "tests/model/test_checkpoint.h"
#include "tests/testing/status_matchers.h"

namespace baleen::model {
namespace {

using ::baleen::testing::SafetensorsBytes;
using ::baleen::testing::StatusIs;
using ::baleen::testing::TempFolder;
using ::baleen::testing::WriteFile;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kIndex = "model.safetensors.index.json";

void WriteIndex(const TempFolder& folder, const std::string& map) {
  WriteFile(folder / kIndex, "{\"metadata\":{},\"weight_map\":" + map + "}");
}

TEST(Checkpoint, ReadsASingleFile) {
  TempFolder folder;
  WriteFile(folder / "model.safetensors", SafetensorsBytes({{"x", {"U8", {1}, "a"}}}));
  auto checkpoint = Checkpoint::Open(folder.path());
  BALEEN_ASSERT_OK(checkpoint);
  EXPECT_TRUE(checkpoint->Has("x"));
  const auto x = checkpoint->Find("x");
  BALEEN_ASSERT_OK(x);
  EXPECT_EQ(*reinterpret_cast<const char*>(x->data), 'a');
}

TEST(Checkpoint, OpensOnlyTheFilesItIsAskedFor) {
  TempFolder folder;
  WriteIndex(folder, R"({"x":"1.safetensors","y":"2.safetensors"})");
  WriteFile(folder / "1.safetensors", SafetensorsBytes({{"x", {"U8", {1}, "a"}}}));
  auto checkpoint = Checkpoint::Open(folder.path());
  BALEEN_ASSERT_OK(checkpoint);
  BALEEN_EXPECT_OK(checkpoint->Find("x"));
  EXPECT_THAT(checkpoint->Find("y"),
              StatusIs(absl::StatusCode::kNotFound,
                       AllOf(HasSubstr("2.safetensors"), HasSubstr("tensor y"))));
}

TEST(Checkpoint, NamesATensorThatIsMissingFromIndexOrFile) {
  TempFolder folder;
  WriteIndex(folder, R"({"x":"1.safetensors"})");
  WriteFile(folder / "1.safetensors", SafetensorsBytes({{"z", {"U8", {1}, "a"}}}));
  auto checkpoint = Checkpoint::Open(folder.path());
  BALEEN_ASSERT_OK(checkpoint);
  EXPECT_THAT(checkpoint->Find("w"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("tensor w")));
  EXPECT_THAT(checkpoint->Find("x"),
              StatusIs(absl::StatusCode::kNotFound,
                       AllOf(HasSubstr("1.safetensors"), HasSubstr("tensor x"))));
}

TEST(Checkpoint, AnEmptyFolderIsNotFound) {
  TempFolder folder;
  EXPECT_THAT(Checkpoint::Open(folder.path()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("neither")));
}

TEST(Checkpoint, MalformedIndexesAreRefused) {
  const std::pair<const char*, const char*> cases[] = {
      {"[1]", "no JSON object"},
      {"{", "no JSON object"},
      {"{}", "weight_map is missing"},
      {R"({"weight_map":[]})", "weight_map"},
      {R"({"weight_map":{"x":3}})", "tensor x"},
      {R"({"weight_map":{"x":"../1"}})", "tensor x"},
      {R"({"weight_map":{"x":""}})", "tensor x"},
      {R"({"weight_map":{"x":"1","y":"1","x":"2"}})", "tensor x twice"}};
  for (const auto& [text, named] : cases) {
    TempFolder folder;
    WriteFile(folder / kIndex, text);
    EXPECT_THAT(
        Checkpoint::Open(folder.path()),
        StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr(kIndex), HasSubstr(named))));
  }
}

}  // namespace
}  // namespace baleen::model
