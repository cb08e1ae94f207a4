#include "router/api/sampling_fields.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "proto/sampling.pb.h"
#include "router/api/api_error.h"
#include "router/api/tiny_model.h"
#include "testing/status_matchers.h"

namespace baleen::router {
namespace {

using baleen::testing::IsOk;

absl::Status Read(const Json& json, ClientRequest* request) {
  FieldReader fields(json);
  ReadSampling(fields, request);
  ReadStreamOptions(fields, request);
  if (!fields.status().ok()) return fields.status();
  return CompleteSampling(TinyModel(), request);
}

TEST(SamplingFields, EveryFieldArrives) {
  ClientRequest request;
  ASSERT_THAT(Read(Json::parse(R"({"max_tokens":7,"min_tokens":2,"temperature":0.5,"top_p":0.25,
      "top_k":5,"min_p":0.125,"presence_penalty":1,"frequency_penalty":-1,
      "repetition_penalty":1.5,"seed":-1,"ignore_eos":true,"stop":["a","b"],
      "stop_token_ids":[4,5],"logit_bias":{"9":-100},"n":1,"best_of":1,"stream":true,
      "stream_options":{"include_usage":true}})"),
                   &request),
              IsOk());
  const v1::SamplingParams& s = *request.sampling;
  EXPECT_EQ(request.max_new_tokens, 7);
  EXPECT_EQ(s.min_new_tokens(), 2);
  EXPECT_EQ(s.temperature(), 0.5f);
  EXPECT_EQ(s.top_p(), 0.25f);
  EXPECT_EQ(s.top_k(), 5);
  EXPECT_EQ(s.min_p(), 0.125f);
  EXPECT_EQ(s.presence_penalty(), 1);
  EXPECT_EQ(s.frequency_penalty(), -1);
  EXPECT_EQ(s.repetition_penalty(), 1.5f);
  EXPECT_EQ(s.seed(), std::numeric_limits<uint64_t>::max());
  EXPECT_TRUE(s.ignore_eos());
  EXPECT_EQ(request.output.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(s.stop_token_ids_size(), 2);
  EXPECT_EQ(s.logit_bias().at(9), -100);
  EXPECT_TRUE(request.stream && request.include_usage && !request.continuous_usage);
}

TEST(SamplingFields, AbsentMeansTheCheckpointsDefaultsAndAFreshSeed) {
  ClientRequest a, b;
  ASSERT_THAT(Read(Json::parse(R"({"temperature":null,"stop":null,"stream_options":null})"), &a),
              IsOk());
  ASSERT_THAT(Read(Json::object(), &b), IsOk());
  EXPECT_EQ(a.sampling->temperature(), TinyModel().default_temperature);
  EXPECT_EQ(a.sampling->top_p(), TinyModel().default_top_p);
  EXPECT_NE(a.sampling->seed(), b.sampling->seed());
  EXPECT_EQ(a.max_new_tokens, 0);
  EXPECT_TRUE(a.output.stop.empty());
}

TEST(SamplingFields, NoTokensMayBeAskedForWhereThatIsOffered) {
  const auto read = [](const char* body, ClientRequest* request) {
    const Json json = Json::parse(body);
    FieldReader fields(json);
    ReadSampling(fields, request, /*least_new_tokens=*/0);
    return fields.status().ok() ? CompleteSampling(TinyModel(), request) : fields.status();
  };
  ClientRequest none, some, less, more;
  ASSERT_THAT(read(R"({"max_tokens":0})", &none), IsOk());
  EXPECT_TRUE(none.output.prompt_only);
  EXPECT_EQ(none.max_new_tokens, 1);  // what workers make at least
  ASSERT_THAT(read(R"({"max_tokens":1,"min_tokens":1})", &some), IsOk());
  EXPECT_FALSE(some.output.prompt_only);
  EXPECT_EQ(ParamOf(read(R"({"max_tokens":-1})", &less)), "max_tokens");
  EXPECT_EQ(ParamOf(read(R"({"max_tokens":0,"min_tokens":1})", &more)), "min_tokens");
}

TEST(SamplingFields, AStopMayBeOneString) {
  ClientRequest request;
  ASSERT_THAT(Read({{"stop", "END"}}, &request), IsOk());
  EXPECT_EQ(request.output.stop, std::vector<std::string>{"END"});
}

TEST(SamplingFields, BadValuesAreRefusedByName) {
  const std::string huge = R"({"stop":[)" + [] {
    std::string list = "\"x\"";
    for (int i = 0; i < 100; ++i) list += ",\"x\"";
    return list;
  }() + "]}";
  const std::pair<std::string, std::string> cases[] = {
      {R"({"max_tokens":0})", "max_tokens"},
      {R"({"max_tokens":-5})", "max_tokens"},
      {R"({"max_tokens":1.5})", "max_tokens"},
      {R"({"max_tokens":99999999999})", "max_tokens"},
      {R"({"max_completion_tokens":"9"})", "max_completion_tokens"},
      {R"({"max_tokens":2,"min_tokens":3})", "min_tokens"},
      {R"({"temperature":-0.1})", "temperature"},
      {R"({"temperature":"NaN"})", "temperature"},
      {R"({"temperature":1e300})", "temperature"},
      {R"({"top_p":0})", "top_p"},
      {R"({"top_p":1.1})", "top_p"},
      {R"({"top_k":-2})", "top_k"},
      {R"({"min_p":2})", "min_p"},
      {R"({"presence_penalty":3})", "presence_penalty"},
      {R"({"frequency_penalty":-3})", "frequency_penalty"},
      {R"({"repetition_penalty":0})", "repetition_penalty"},
      {R"({"n":2})", "n"},
      {R"({"best_of":3})", "best_of"},
      {R"({"seed":"x"})", "seed"},
      {R"({"stop":5})", "stop"},
      {R"({"stop":["a",5]})", "stop"},
      {R"({"stop":""})", "stop"},
      {huge, "stop"},
      {R"({"stop":")" + std::string(2000, 'x') + R"("})", "stop"},
      {Json({{"stop", std::vector<std::string>(17, std::string(1000, 'x'))}}).dump(), "stop"},
      {R"({"stop_token_ids":[4096]})", "stop_token_ids"},
      {R"({"stop_token_ids":[-1]})", "stop_token_ids"},
      {R"({"stop_token_ids":3})", "stop_token_ids"},
      {R"({"logit_bias":{"x":1}})", "logit_bias"},
      {R"({"logit_bias":{"5000":1}})", "logit_bias"},
      {R"({"logit_bias":{"5":101}})", "logit_bias"},
      {R"({"logit_bias":[1]})", "logit_bias"},
      {R"({"ignore_eos":"yes"})", "ignore_eos"},
      {R"({"stream":1})", "stream"},
      {R"({"stream_options":{"include_usage":3}})", "stream_options"},
  };
  for (const auto& [body, param] : cases) {
    ClientRequest request;
    const absl::Status status = Read(Json::parse(body), &request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << body;
    EXPECT_EQ(ParamOf(status), param) << body;
  }
}

TEST(SamplingFields, NotANumberIsRefusedWhateverItCameOver) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  using Set = void (v1::SamplingParams::*)(float);
  const std::pair<Set, const char*> setters[] = {
      {&v1::SamplingParams::set_temperature, "temperature"},
      {&v1::SamplingParams::set_top_p, "top_p"},
      {&v1::SamplingParams::set_min_p, "min_p"},
      {&v1::SamplingParams::set_presence_penalty, "presence_penalty"},
      {&v1::SamplingParams::set_frequency_penalty, "frequency_penalty"},
      {&v1::SamplingParams::set_repetition_penalty, "repetition_penalty"}};
  for (const auto& [set, param] : setters) {
    ClientRequest request;
    (*request.sampling.*set)(nan);
    EXPECT_EQ(ParamOf(CompleteSampling(TinyModel(), &request)), param);
  }
}

}  // namespace
}  // namespace baleen::router
