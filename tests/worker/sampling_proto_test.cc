#include "worker/sampling_proto.h"

#include <gtest/gtest.h>

#include "proto/sampling.pb.h"
#include "testing/status_matchers.h"

namespace baleen::worker {
namespace {

using baleen::testing::StatusIs;
using ::testing::HasSubstr;

// T-E7: what is absent has the documented default, not the zero of the wire.
TEST(SamplingProto, AbsentFieldsHaveTheirDefaults) {
  const auto params = FromProto(v1::SamplingParams(), 100);
  BALEEN_ASSERT_OK(params);
  EXPECT_EQ(params->temperature, 1.0f);
  EXPECT_EQ(params->top_p, 1.0f);
  EXPECT_EQ(params->repetition_penalty, 1.0f);
  EXPECT_EQ(params->top_logprobs, std::nullopt);
}

// T-E14: every field survives the hop.
TEST(SamplingProto, EveryFieldIsCarried) {
  v1::SamplingParams proto;
  proto.set_max_new_tokens(7);
  proto.set_min_new_tokens(3);
  proto.set_temperature(0.5f);
  proto.set_top_p(0.9f);
  proto.set_top_k(11);
  proto.set_min_p(0.1f);
  proto.set_presence_penalty(0.2f);
  proto.set_frequency_penalty(0.3f);
  proto.set_repetition_penalty(1.1f);
  (*proto.mutable_logit_bias())[9] = -4;
  (*proto.mutable_logit_bias())[2] = 5;
  proto.set_seed(1234567890123);
  proto.add_stop_token_ids(8);
  proto.set_ignore_eos(true);
  proto.set_top_logprobs(0);
  proto.set_prompt_logprobs(true);
  const auto p = ParseSampling(proto.SerializeAsString(), 100);
  BALEEN_ASSERT_OK(p);
  EXPECT_EQ(p->max_new_tokens, 7);
  EXPECT_EQ(p->min_new_tokens, 3);
  EXPECT_EQ(p->temperature, 0.5f);
  EXPECT_EQ(p->top_p, 0.9f);
  EXPECT_EQ(p->top_k, 11);
  EXPECT_EQ(p->min_p, 0.1f);
  EXPECT_EQ(p->presence_penalty, 0.2f);
  EXPECT_EQ(p->frequency_penalty, 0.3f);
  EXPECT_EQ(p->repetition_penalty, 1.1f);
  EXPECT_EQ(p->logit_bias, (std::vector<std::pair<int32_t, float>>{{2, 5}, {9, -4}}));
  EXPECT_EQ(p->seed, 1234567890123u);
  EXPECT_EQ(p->stop_token_ids, std::vector<int32_t>{8});
  EXPECT_TRUE(p->ignore_eos);
  EXPECT_EQ(p->top_logprobs, 0);
  EXPECT_TRUE(p->prompt_logprobs);
}

TEST(SamplingProto, NonsenseIsRefusedByName) {
  v1::SamplingParams proto;
  proto.set_temperature(-1);
  EXPECT_THAT(FromProto(proto, 100),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("temperature")));
  EXPECT_THAT(ParseSampling("\xff\xff", 100),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("sampling")));
}

}  // namespace
}  // namespace baleen::worker
