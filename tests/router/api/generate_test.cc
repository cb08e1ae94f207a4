// Requests and answers of /generate.
#include "gmock/gmock.h"
#include "proto/sampling.pb.h"
#include "router/api/api_error.h"
#include "router/api/requests.h"
#include "router/api/response_writer.h"
#include "router/api/tiny_model.h"
#include "testing/status_matchers.h"

namespace baleen::router {
namespace {

using baleen::testing::IsOk;
using ::testing::ElementsAre;

TEST(Generate, SglangsFieldsAreUnderstood) {
  const auto parsed = ParseGenerateRequest(
      TinyModel(), Json::parse(R"({"input_ids":[[5,6],[7]],"sampling_params":{"max_new_tokens":4,
        "temperature":0,"ignore_eos":true,"odd":1},"stream":true,"return_logprob":true,
        "logprob_start_len":0,"top_logprobs_num":2,"lora_path":null})"));
  ASSERT_THAT(parsed, IsOk());
  EXPECT_TRUE(parsed->batch);
  EXPECT_EQ(parsed->request.prompts.size(), 2u);
  EXPECT_EQ(parsed->request.max_new_tokens, 4);
  EXPECT_TRUE(parsed->request.sampling->prompt_logprobs());
  EXPECT_EQ(parsed->request.sampling->top_logprobs(), 2);
  EXPECT_THAT(parsed->request.unknown_fields, ElementsAre("odd"));
  for (const char* body : {"{}", R"({"text":"a","input_ids":[1]})",
                           R"({"text":"a","sampling_params":{"max_new_tokens":0}})"})
    EXPECT_FALSE(ParseGenerateRequest(TinyModel(), Json::parse(body)).ok()) << body;
}

// What a writer sends for one choice whose text comes in two pieces.
class WriterTest : public ::testing::Test {
 protected:
  WriterTest() { request_.prompts.assign(2, std::make_shared<std::vector<uint32_t>>(3, 5u)); }
  ResponseContext Context() {
    return {.id = "id", .created = 7, .model = &TinyModel(), .request = &request_};
  }
  ClientRequest request_;
  ResponseWriter::Events events_;
};

OutputDelta TextDelta(const std::string& text) {
  OutputDelta delta;
  delta.text = text;
  delta.tokens = {5};
  return delta;
}

TEST_F(WriterTest, GenerateSendsAllOfTheTextEachTime) {
  request_.stream = true;
  const auto writer = MakeGenerateWriter(Context(), /*batch=*/true);
  writer->OnDelta(1, TextDelta("a"), {.completion_tokens = 1}, &events_);
  writer->OnDelta(1, TextDelta("b"), {.completion_tokens = 2}, &events_);
  EXPECT_EQ(Json::parse(events_.at(1))["text"], "ab");
  EXPECT_EQ(Json::parse(events_.at(1))["index"], 1);
  EXPECT_EQ(Json::parse(events_.at(1))["meta_info"]["completion_tokens"], 2);
  writer->OnEnding(1, {.matched_stop = "X", .info = {.steps = 2}}, {.completion_tokens = 4},
                   &events_);
  const Json last = Json::parse(events_.back());
  EXPECT_EQ(last["meta_info"]["finish_reason"]["matched"], "X");
  EXPECT_EQ(last["meta_info"]["spec_accept_length"], 2.0);
  EXPECT_EQ(last["output_ids"], Json::parse("[5,5]"));
}

}  // namespace
}  // namespace baleen::router
