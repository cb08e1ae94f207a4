#include "common/wire.h"

#include <gtest/gtest.h>

namespace baleen {
namespace {

TEST(Wire, ReadsBackWhatWasWritten) {
  ByteWriter writer;
  writer.Put<uint64_t>(7);
  writer.PutVector<int32_t>(std::vector<int32_t>{-1, 2});
  writer.PutString("page");
  ByteReader reader(writer.bytes());
  EXPECT_EQ(reader.Get<uint64_t>(), 7u);
  EXPECT_EQ(reader.GetVector<int32_t>(), (std::vector<int32_t>{-1, 2}));
  EXPECT_EQ(reader.GetString(), "page");
  EXPECT_TRUE(reader.Done());
}

TEST(Wire, EveryTruncationIsNoticed) {
  ByteWriter writer;
  writer.PutVector<int64_t>(std::vector<int64_t>(5, 9));
  writer.PutString("x");
  for (size_t n = 0; n < writer.bytes().size(); ++n) {
    ByteReader reader(std::span(writer.bytes()).first(n));
    reader.GetVector<int64_t>();
    reader.GetString();
    EXPECT_FALSE(reader.ok()) << n;
  }
}

TEST(Wire, AHugeCountAllocatesNothing) {
  ByteWriter writer;
  writer.Put<uint32_t>(0xffffffff);
  ByteReader reader(writer.bytes());
  EXPECT_TRUE(reader.GetVector<int64_t>().empty());
  EXPECT_FALSE(reader.ok());
}

TEST(Wire, LeftOverBytesAreNotDone) {
  ByteWriter writer;
  writer.Put<uint32_t>(1);
  writer.Put<uint8_t>(1);
  ByteReader reader(writer.bytes());
  reader.Get<uint32_t>();
  EXPECT_TRUE(reader.ok());
  EXPECT_FALSE(reader.Done());
}

}  // namespace
}  // namespace baleen
