// Requests and answers of /generate.
#include "absl/strings/str_cat.h"
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
        "logprob_start_len":0,"top_logprobs_num":2,"return_text_in_logprobs":true,
        "rid":["a","b"],"lora_path":null,"image_data":[],"return_hidden_states":false})"));
  ASSERT_THAT(parsed, IsOk());
  EXPECT_TRUE(parsed->batch);
  EXPECT_EQ(parsed->request.prompts.size(), 2u);
  EXPECT_EQ(parsed->request.max_new_tokens, 4);
  EXPECT_TRUE(parsed->request.sampling->prompt_logprobs());
  EXPECT_EQ(parsed->request.sampling->top_logprobs(), 2);
  EXPECT_TRUE(parsed->request.output.logprob_texts);
  EXPECT_THAT(parsed->request.request_ids, ElementsAre("a", "b"));
  EXPECT_THAT(parsed->request.unknown_fields, ElementsAre("odd"));
  for (const char* body : {"{}", R"({"text":"a","input_ids":[1]})",
                           R"({"text":"a","sampling_params":{"max_new_tokens":-1}})"})
    EXPECT_FALSE(ParseGenerateRequest(TinyModel(), Json::parse(body)).ok()) << body;
}

TEST(Generate, WhatCannotBeServedIsRefusedByName) {
  const std::pair<const char*, const char*> cases[] = {
      {"logprob_start_len", "5"},
      {"logprob_start_len", "-2"},
      {"top_logprobs_num", "21"},
      {"rid", "7"},
      {"rid", "\"\""},
      {"rid", R"(["a"])"},  // for one prompt that is no list
      {"lora_path", R"("adapter")"},
      {"return_hidden_states", "true"},
      {"token_ids_logprob", "[1]"},
      {"bootstrap_room", "0"},
      {"sampling_params", R"({"regex":"a*"})"}};
  for (const auto& [name, value] : cases) {
    const std::string body = absl::StrCat(R"({"text":"a",")", name, "\":", value, "}");
    const absl::Status status = ParseGenerateRequest(TinyModel(), Json::parse(body)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << body;
    EXPECT_THAT(ParamOf(status), ::testing::StartsWith(name)) << body;
  }
  const Json defaults = Json::parse(R"({"text":"a","logprob_start_len":-1,"top_logprobs_num":0,
      "rid":null,"lora_path":"","return_hidden_states":false,"return_text_in_logprobs":false})");
  const auto parsed = ParseGenerateRequest(TinyModel(), defaults);
  ASSERT_THAT(parsed, IsOk());
  EXPECT_THAT(parsed->request.unknown_fields, ElementsAre());
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

TEST_F(WriterTest, GenerateSendsThePromptsLogprobsFirstAndLast) {
  request_.stream = true;
  request_.output.logprobs = true;
  request_.output.top_logprobs = 1;
  const auto writer = MakeGenerateWriter(Context(), /*batch=*/true);
  const TokenLogprob t{.token = 5, .logprob = -0.5, .top = {{5, -0.5}}};
  OutputDelta delta;
  delta.prompt_logprobs = {t, t};
  writer->OnDelta(1, delta, {}, &events_);  // no text, no event
  for (const char* text : {"a", "b"}) writer->OnDelta(1, TextDelta(text), {}, &events_);
  writer->OnEnding(1, {}, {}, &events_);
  std::vector<size_t> entries, top;
  for (const std::string& event : events_) {
    const Json meta = Json::parse(event)["meta_info"];
    EXPECT_TRUE(meta.contains("output_token_logprobs")) << event;
    entries.push_back(meta.value("input_token_logprobs", Json()).size());
    top.push_back(meta.value("input_top_logprobs", Json()).size());
  }
  EXPECT_THAT(entries, ElementsAre(2, 0, 2));
  EXPECT_THAT(top, ElementsAre(2, 0, 2));
}

TEST_F(WriterTest, GenerateGivesTheStopTokensLogprob) {
  request_.output.logprobs = true;
  request_.output.top_logprobs = 1;
  request_.prompts.resize(1);
  const auto writer = MakeGenerateWriter(Context(), /*batch=*/false);
  const TokenLogprob stop{.token = 1, .logprob = -0.5, .top = {{1, -0.5}}};
  writer->OnEnding(0, {.stop_token = stop}, {.completion_tokens = 1}, &events_);
  const Json body = Json::parse(writer->Body({}));
  EXPECT_EQ(body["text"], "");
  const Json entry = {-0.5, 1, nullptr};
  EXPECT_EQ(body["meta_info"]["output_token_logprobs"], Json::array({entry}));
  EXPECT_EQ(body["meta_info"]["output_top_logprobs"], Json::array({Json::array({entry})}));
}

TEST_F(WriterTest, GenerateGivesAlternativesAndTextsWhenAskedFor) {
  request_.output.logprobs = true;
  request_.output.top_logprobs = 1;
  request_.output.logprob_texts = true;
  request_.request_ids = {"mine", "yours"};
  const auto writer = MakeGenerateWriter(Context(), /*batch=*/true);
  const TokenLogprob t{.token = 5, .logprob = -0.5, .top = {{5, -0.5}, {6, -1}}};
  OutputDelta delta = TextDelta("a");
  delta.prompt_logprobs = {t, t};
  delta.logprobs = {t};
  writer->OnDelta(1, delta, {}, &events_);
  writer->OnEnding(0, {}, {}, &events_);
  writer->OnEnding(1, {}, {}, &events_);
  const Json body = Json::parse(writer->Body({}));
  const Json& meta = body[1]["meta_info"];
  EXPECT_EQ(body[0]["meta_info"]["id"], "mine");
  EXPECT_EQ(meta["id"], "yours");
  const Json entry = {-0.5, 5, TokenText(TinyModel(), 5)};
  const Json first = {nullptr, 5, TokenText(TinyModel(), 5)};
  EXPECT_EQ(meta["output_token_logprobs"], Json::array({entry}));
  EXPECT_EQ(meta["input_token_logprobs"], Json::array({first, entry}));
  EXPECT_EQ(meta["output_top_logprobs"], Json::array({Json::array({entry})}));
  EXPECT_EQ(meta["input_top_logprobs"], Json::array({nullptr, Json::array({entry})}));
}

}  // namespace
}  // namespace baleen::router
