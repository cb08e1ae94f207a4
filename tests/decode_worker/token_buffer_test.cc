#include "decode_worker/token_buffer.h"

#include <thread>

#include "decode_worker/collecting_writer.h"
#include "testing/status_matchers.h"

namespace baleen::decode_worker {
namespace {

using baleen::testing::CollectingWriter;
using baleen::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TokenChunk Tokens(std::vector<int32_t> tokens) { return {.tokens = std::move(tokens)}; }

TEST(TokenBuffer, MergesWhatComesDuringAWrite) {
  CollectingWriter writer(/*hold=*/true);
  TokenBuffer& buffer = *writer.buffer();
  buffer.Append(Tokens({1}));
  buffer.Append(Tokens({2, 3}));
  buffer.Append(Tokens({4}));
  EXPECT_THAT(writer.tokens(), ElementsAre(1));
  writer.Release();
  EXPECT_THAT(writer.tokens(), ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(writer.writes(), 2);
}

TEST(TokenBuffer, EndsOnlyAfterWhatIsPending) {
  CollectingWriter writer(/*hold=*/true);
  writer.buffer()->Append(Tokens({1}));
  writer.buffer()->Append({.tokens = {2}, .finish = FinishInfo{.new_tokens = 2}});
  writer.buffer()->Close(absl::OkStatus());
  EXPECT_FALSE(writer.end().has_value());
  writer.Release();
  EXPECT_FALSE(writer.end().has_value());
  writer.Release();
  BALEEN_EXPECT_OK(writer.end().value());
  EXPECT_EQ(writer.finish()->new_tokens, 2);
}

TEST(TokenBuffer, AnErrorDropsWhatIsPendingAndTheFirstOneStays) {
  CollectingWriter writer(/*hold=*/true);
  writer.buffer()->Append(Tokens({1}));
  writer.buffer()->Append(Tokens({2}));
  writer.buffer()->Close(absl::UnavailableError("prefill is gone"));
  writer.buffer()->Close(absl::InternalError("later"));
  EXPECT_FALSE(writer.buffer()->Append(Tokens({3})));
  writer.Release();
  EXPECT_THAT(writer.tokens(), ElementsAre(1));
  EXPECT_THAT(*writer.end(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("prefill")));
}

TEST(TokenBuffer, AReaderTooSlowIsCutOff) {
  CollectingWriter writer(/*hold=*/true, /*max_tokens=*/3);
  EXPECT_TRUE(writer.buffer()->Append(Tokens({1})));
  EXPECT_TRUE(writer.buffer()->Append(Tokens({2, 3, 4})));
  EXPECT_FALSE(writer.buffer()->Append(Tokens({5})));
  writer.Release();
  EXPECT_THAT(*writer.end(), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("behind")));
  EXPECT_THAT(writer.tokens(), ElementsAre(1));
}

TEST(TokenBuffer, AFailedWriteEndsTheStream) {
  CollectingWriter writer(/*hold=*/true);
  writer.buffer()->Append(Tokens({1}));
  writer.Release(/*ok=*/false);
  EXPECT_THAT(*writer.end(), StatusIs(absl::StatusCode::kCancelled, HasSubstr("gone")));
  EXPECT_FALSE(writer.buffer()->Append(Tokens({2})));
}

TEST(TokenBuffer, OutlivesItsWriter) {
  std::shared_ptr<TokenBuffer> buffer;
  {
    CollectingWriter writer;
    buffer = writer.buffer();
  }
  EXPECT_FALSE(buffer->Append(Tokens({1})));
  buffer->Close(absl::OkStatus());
}

TEST(TokenBuffer, TokensOfOneThreadArriveInOrderAtAnother) {
  CollectingWriter writer;
  std::vector<int32_t> want;
  for (int32_t i = 0; i < 16000; ++i) want.push_back(i);
  std::jthread step([&] {
    for (int32_t token : want) writer.buffer()->Append(Tokens({token}));
    writer.buffer()->Close(absl::OkStatus());
  });
  ASSERT_TRUE(writer.Pump());
  BALEEN_EXPECT_OK(writer.end().value());
  EXPECT_EQ(writer.tokens(), want);
}

}  // namespace
}  // namespace baleen::decode_worker
