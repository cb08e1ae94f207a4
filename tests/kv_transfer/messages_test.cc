#include "kv_transfer/messages.h"

#include <random>

#include "gtest/gtest.h"
#include "testing/status_matchers.h"

namespace baleen::kv_transfer {
namespace {

using ::baleen::testing::IsOk;
using ::baleen::testing::StatusIs;
using ::testing::HasSubstr;

Hello AHello() {
  return {.from = Incarnation{1},
          .to = Incarnation{2},
          .token = 3,
          .answers = 14,
          .name = "prefill-0/1",
          .transport_address = std::string("\0\1binary", 8),
          .fingerprint = {{"model", "tiny"}, {"layers", "12"}},
          .process = {"boot", 4, 5, 6},
          .pool = {7, 8, 9, 10, 11, "key"},
          .probe_address = 12,
          .probe_bytes = 13,
          .probe_key = "probe"};
}
Grant AGrant() {
  return {.grant = GrantId{1},
          .attempt = AttemptId{2},
          .ttl_ms = 3,
          .stage = 4,
          .stages = 5,
          .pages = {7, 8, 9}};
}
Handoff AHandoff() {
  return {.grant = GrantId{1},
          .attempt = AttemptId{2},
          .stage = 3,
          .pages = 4,
          .record = {5, 6, 7, 8, {9, 10}, "logprobs"}};
}

TEST(Messages, ARoundTripKeepsEveryField) {
  const auto hello = Decode<Hello>(Encode(AHello()));
  BALEEN_ASSERT_OK(hello);
  EXPECT_EQ(hello->answers, AHello().answers);
  EXPECT_EQ(hello->fingerprint, AHello().fingerprint);
  EXPECT_EQ(hello->transport_address, AHello().transport_address);
  EXPECT_EQ(hello->process, AHello().process);
  EXPECT_EQ(hello->pool, AHello().pool);
  EXPECT_EQ(hello->probe_key, "probe");
  const auto grant = Decode<Grant>(Encode(AGrant()));
  BALEEN_ASSERT_OK(grant);
  EXPECT_EQ(grant->pages, AGrant().pages);
  EXPECT_EQ(grant->stages, 5u);
  const auto handoff = Decode<Handoff>(Encode(AHandoff()));
  BALEEN_ASSERT_OK(handoff);
  EXPECT_EQ(handoff->record, AHandoff().record);
}

// The bytes on the wire are the contract: this fails when a field moves without a new version.
TEST(Messages, TheWireIsLittleEndianInDeclaredOrder) {
  const Bytes bytes = Encode(ChunkDone{.grant = GrantId{0x0102030405060708},
                                       .stage = 1,
                                       .chunk = 2,
                                       .first_page = 3,
                                       .page_count = 4,
                                       .components = 5,
                                       .bytes = 6});
  ASSERT_EQ(bytes.size(), 36u);
  EXPECT_EQ(bytes[0], std::byte{8});
  EXPECT_EQ(bytes[7], std::byte{1});
  EXPECT_EQ(bytes[8], std::byte{1});
  EXPECT_EQ(bytes[24], std::byte{5});
  EXPECT_EQ(bytes[28], std::byte{6});
  EXPECT_EQ(EncodeFrame({.type = 9, .token = 1}).size(), kFrameBytes);
}

TEST(Messages, FramesOfOthersAreRefused) {
  Bytes frame = EncodeFrame({.type = 9, .token = 77});
  const auto good = DecodeFrame(frame);
  BALEEN_ASSERT_OK(good);
  EXPECT_EQ(good->type, 9);
  EXPECT_EQ(good->token, 77u);
  EXPECT_THAT(DecodeFrame(std::span(frame).first(15)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("short")));
  Bytes other = frame;
  other[5] = std::byte{kProtocolVersion + 1};
  EXPECT_THAT(DecodeFrame(other),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("protocol version")));
  frame[0] = std::byte{0};
  EXPECT_THAT(DecodeFrame(frame), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("magic")));
}

template <typename Message>
void EveryPrefixAndSuffixIsRefused(const Message& message) {
  Bytes bytes = Encode(message);
  for (size_t n = 0; n < bytes.size(); ++n)
    EXPECT_FALSE(Decode<Message>(std::span(bytes).first(n)).ok()) << n;
  bytes.push_back(std::byte{0});
  EXPECT_FALSE(Decode<Message>(bytes).ok());
}

TEST(Messages, ShortAndLongOnesAreRefused) {
  EveryPrefixAndSuffixIsRefused(AHello());
  EveryPrefixAndSuffixIsRefused(AGrant());
  EveryPrefixAndSuffixIsRefused(AHandoff());
  EveryPrefixAndSuffixIsRefused(Abort{.grant = GrantId{1}, .message = "why"});
}

TEST(Messages, ACountLargerThanTheMessageAllocatesNothing) {
  Bytes bytes = Encode(Grant{});
  for (size_t i = bytes.size() - 4; i < bytes.size(); ++i) bytes[i] = std::byte{0xff};
  EXPECT_FALSE(Decode<Grant>(bytes).ok());
}

template <typename Message>
void Fuzz(std::mt19937& rng, const Message& seed_message) {
  for (int i = 0; i < 3000; ++i) {
    Bytes bytes = Encode(seed_message);
    for (uint32_t flips = 1 + rng() % 4; flips > 0; --flips)
      bytes[rng() % bytes.size()] = std::byte(rng());
    if (rng() % 4 == 0) bytes.resize(rng() % (bytes.size() + 8));
    const auto decoded = Decode<Message>(bytes);
    if (decoded.ok()) {
      EXPECT_EQ(Encode(*decoded), bytes);
    }  // what is accepted is understood whole
  }
}

TEST(Messages, RandomBytesNeverBreakADecoder) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 rng(seed);
  Fuzz(rng, AHello());
  Fuzz(rng, AGrant());
  Fuzz(rng, AHandoff());
  Fuzz(rng, Abort{.grant = GrantId{1}, .attempt = AttemptId{2}, .code = 3, .message = "why"});
  Fuzz(rng, ChunkDone{.grant = GrantId{1}});
  Fuzz(rng, ProbeReply{.content_equal = true});
}

}  // namespace
}  // namespace baleen::kv_transfer
