#include "model/checkpoint/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/model/test_checkpoint.h"
#include "tests/testing/status_matchers.h"

namespace baleen::model {
namespace {

using ::baleen::testing::SafetensorsBytes;
using ::baleen::testing::StatusIs;
using ::baleen::testing::TempFolder;
using ::testing::AllOf;
using ::testing::HasSubstr;

absl::StatusOr<std::vector<TensorEntry>> Parse(const std::string& bytes) {
  return ParseSafetensorsHeader(std::as_bytes(std::span(bytes)), "f.safetensors");
}

// A header with one tensor entry over 16 bytes of data.
absl::StatusOr<std::vector<TensorEntry>> ParseEntry(const std::string& entry) {
  return Parse(SafetensorsBytes("{\"t\":" + entry + "}", std::string(16, '\0')));
}

TEST(Safetensors, ReadsTensorsInTheOrderOfTheFile) {
  const std::string header =
      R"({"b":{"dtype":"F32","shape":[2,1],"data_offsets":[4,12]},"__metadata__":{"k":"v"},)"
      R"("a":{"data_offsets":[0,4],"shape":[4],"dtype":"F8_E4M3"},)"
      R"("s":{"dtype":"F32","shape":[],"data_offsets":[12,16]},)"
      R"("e":{"dtype":"BF16","shape":[0,7],"data_offsets":[16,16]}}   )";
  const auto tensors = Parse(SafetensorsBytes(header, std::string(16, 'x')));
  BALEEN_ASSERT_OK(tensors);
  ASSERT_EQ(tensors->size(), 4u);
  EXPECT_EQ((*tensors)[0].name, "a");
  EXPECT_EQ((*tensors)[0].dtype, FileDType::kF8E4M3);
  EXPECT_EQ((*tensors)[1].name, "b");
  EXPECT_EQ((*tensors)[1].shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ((*tensors)[1].begin, 8 + header.size() + 4);
  EXPECT_EQ((*tensors)[1].end, 8 + header.size() + 12);
}

TEST(Safetensors, OpensAFileAndFindsItsData) {
  TempFolder folder;
  testing::WriteFile(folder / "m.safetensors",
                     SafetensorsBytes({{"x", {"U8", {3}, "abc"}}, {"y", {"U8", {2}, "de"}}}));
  const auto file = SafetensorsFile::Open(folder / "m.safetensors");
  BALEEN_ASSERT_OK(file);
  const TensorEntry* y = (*file)->Find("y");
  ASSERT_NE(y, nullptr);
  EXPECT_EQ(std::memcmp((*file)->Data(*y), "de", 2), 0);
  EXPECT_EQ((*file)->Find("z"), nullptr);
}

TEST(Safetensors, AMissingFileIsNotFound) {
  EXPECT_THAT(SafetensorsFile::Open("/nowhere/m.safetensors"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nowhere/m.safetensors")));
}

struct BadEntry {
  const char* entry;
  const char* named;
};

class BadHeader : public ::testing::TestWithParam<BadEntry> {};

TEST_P(BadHeader, IsRefusedByTensorAndField) {
  EXPECT_THAT(ParseEntry(GetParam().entry),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("f.safetensors: "), HasSubstr(GetParam().named))));
}

INSTANTIATE_TEST_SUITE_P(
    Entries, BadHeader,
    ::testing::Values(
        BadEntry{R"({"dtype":"F32","shape":[4],"data_offsets":[0,17]})", "reach beyond"},
        BadEntry{R"({"dtype":"F32","shape":[4],"data_offsets":[8,4]})", "wrong order"},
        BadEntry{R"({"dtype":"F32","shape":[4],"data_offsets":[0,12]})", "do not hold"},
        BadEntry{R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})",
                 "do not hold"},
        BadEntry{R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,0]})",
                 "too large"},
        BadEntry{R"({"dtype":"F32","shape":[-4],"data_offsets":[0,16]})", "shape must not be neg"},
        BadEntry{R"({"dtype":"F32","shape":[4.0],"data_offsets":[0,16]})", "whole number"},
        BadEntry{R"({"dtype":"F32","shape":[[4]],"data_offsets":[0,16]})", "shape"},
        BadEntry{R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,4],"data_offsets":[0,16]})",
                 "too many"},
        BadEntry{R"({"dtype":"F32","shape":4,"data_offsets":[0,16]})", "shape"},
        BadEntry{R"({"dtype":"F32","shape":[4],"data_offsets":[0]})", "data_offsets"},
        BadEntry{R"({"dtype":"F32","shape":[4]})", "data_offsets"},
        BadEntry{R"({"dtype":"F32","data_offsets":[0,16]})", "no shape"},
        BadEntry{R"({"shape":[4],"data_offsets":[0,16]})", "no dtype"},
        BadEntry{R"({"dtype":"F4","shape":[4],"data_offsets":[0,16]})", "F4"},
        BadEntry{R"({"dtype":3,"shape":[4],"data_offsets":[0,16]})", "dtype"},
        BadEntry{R"({"dtype":null,"shape":[4],"data_offsets":[0,16]})", "dtype must not be null"},
        BadEntry{R"({"dtype":"F32","dtype":"F32","shape":[4],"data_offsets":[0,16]})", "twice"},
        BadEntry{R"({"dtype":"F32","shape":[4],"shape":[4],"data_offsets":[0,16]})", "twice"},
        BadEntry{R"({"dtype":"F32","shape":[4],"data_offsets":[0,16],"more":1})", "more"},
        BadEntry{R"({"dtype":{},"shape":[4],"data_offsets":[0,16]})", "dtype"},
        BadEntry{R"([1])", "tensor t"}, BadEntry{R"(7)", "tensor t"}, BadEntry{R"(")", "JSON"}));

TEST(Safetensors, OverlappingTensorsAreRefused) {
  const std::string header = R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
                             R"("b":{"dtype":"U8","shape":[8],"data_offsets":[7,15]}})";
  EXPECT_THAT(Parse(SafetensorsBytes(header, std::string(16, '\0'))),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("tensor b"), HasSubstr("overlap"), HasSubstr("tensor a"))));
}

TEST(Safetensors, ATensorNamedTwiceIsRefused) {
  const std::string entry = R"({"dtype":"U8","shape":[8],"data_offsets":[0,8]})";
  EXPECT_THAT(
      Parse(SafetensorsBytes("{\"a\":" + entry + ",\"a\":" + entry + "}", std::string(16, 'x'))),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tensor a")));
}

TEST(Safetensors, LyingOrCutHeaderLengthsAreRefused) {
  const std::string good = SafetensorsBytes({{"x", {"U8", {3}, "abc"}}});
  for (size_t n = 0; n < good.size(); ++n) {
    EXPECT_FALSE(Parse(good.substr(0, n)).ok()) << "cut to " << n;
  }
  std::string huge = good;
  huge.replace(0, 8, "\xff\xff\xff\xff\xff\xff\xff\xff");
  EXPECT_THAT(Parse(huge), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("100 MiB")));
  std::string zero = good;
  zero.replace(0, 8, std::string(8, '\0'));
  EXPECT_FALSE(Parse(zero).ok());
  EXPECT_FALSE(Parse(SafetensorsBytes("[]", "")).ok());
  EXPECT_FALSE(Parse(SafetensorsBytes("{} {}", "")).ok());
}

TEST(Safetensors, DeepNestingIsRefusedWithoutRecursion) {
  EXPECT_FALSE(ParseEntry(std::string(1 << 20, '[')).ok());
  std::string objects;
  for (int i = 0; i < 1 << 16; ++i) objects += "{\"a\":";
  EXPECT_FALSE(ParseEntry(objects).ok());
}

// How many of the file's bytes are in the page cache.
size_t Cached(std::span<const std::byte> mapped) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages(mapped.size() / page);
  BALEEN_CHECK(mincore(const_cast<std::byte*>(mapped.data()), mapped.size(), pages.data()) == 0);
  return std::count_if(pages.begin(), pages.end(), [](auto p) { return (p & 1) != 0; }) * page;
}

// The kernel cuts one large request down to its read-ahead.
TEST(WillNeed, BringsAllOfALargeRange) {
  constexpr size_t kBytes = size_t{32} << 20;
  const TempFolder folder;
  testing::WriteFile(folder / "f", std::string(kBytes, 'x'));
  const int fd = open((folder / "f").c_str(), O_RDWR);
  void* mapping = mmap(nullptr, kBytes, PROT_READ, MAP_PRIVATE, fd, 0);
  ASSERT_NE(mapping, MAP_FAILED);
  const std::span mapped(static_cast<const std::byte*>(mapping), kBytes);
  ASSERT_EQ(fdatasync(fd), 0);
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);  // where files live in memory, they stay
  WillNeed(mapped.subspan(1));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (Cached(mapped) < kBytes) {
    ASSERT_LT(std::chrono::steady_clock::now(), deadline) << Cached(mapped) << " bytes are there";
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // between two looks
  }
  munmap(mapping, kBytes);
  close(fd);
}

}  // namespace
}  // namespace baleen::model
