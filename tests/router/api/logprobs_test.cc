#include "gmock/gmock.h"
#include "router/api/response_writer.h"
#include "router/api/tiny_model.h"

namespace baleen::router {
namespace {

TEST(Logprobs, TwoTokensOfOneTextKeepTheLikelier) {
  const uint32_t a = 127 + 3;  // bytes that are no UTF-8 by themselves
  const uint32_t b = a + 1;
  ASSERT_EQ(TokenText(TinyModel(), a), TokenText(TinyModel(), b));
  CompletionLogprobs logprobs;
  int64_t offset = 0;
  logprobs.Append(TinyModel(), {{.token = a, .logprob = -3, .top = {{b, -1.f}, {a, -3.f}}}}, 2,
                  /*first_has_none=*/false, &offset);
  const Json json = logprobs.ToJson();
  EXPECT_EQ(json["top_logprobs"][0].size(), 1u);
  EXPECT_EQ(json["top_logprobs"][0].begin().value(), -1.f);
  EXPECT_EQ(offset, 1);  // characters, not bytes
}

TEST(Logprobs, OffsetsCountTheTextTheClientSees) {
  CompletionLogprobs logprobs;
  int64_t offset = 0;
  const std::vector<TokenLogprob> prompt = {{.token = TinyModel().bos}, {.token = 60}};
  logprobs.Append(TinyModel(), prompt, 0, /*first_has_none=*/true, &offset);
  EXPECT_EQ(logprobs.ToJson()["text_offset"], Json::parse("[0,0]"));
  EXPECT_EQ(offset, 1);
}

TEST(Logprobs, ChatShowsBytesAndAsManyAlternativesAsAsked) {
  const Json json =
      ChatLogprobs(TinyModel(), {{.token = 60, .logprob = -1, .top = {{60, -1.f}, {61, -2.f}}}}, 1);
  const Json& entry = json["content"][0];
  EXPECT_EQ(entry["top_logprobs"].size(), 1u);
  EXPECT_EQ(entry["bytes"].size(), entry["token"].get<std::string>().size());
}

}  // namespace
}  // namespace baleen::router
